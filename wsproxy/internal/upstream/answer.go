package upstream

import (
	"bytes"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// An answer is a response together with its body.
type answer struct {
	http.Response
	body body
}

// A Scratch is memory for one response after another; see [Transport.RoundTripTo]. The zero value
// is ready to use.
type Scratch struct {
	answer answer
	header http.Header
}

const maxKeptFields = 64

// Reset makes the memory free for the next response. Close the body of the last response first. Do
// not use that response, its header map or its body afterwards. The values of its header stay
// valid.
func (s *Scratch) Reset() {
	s.answer = answer{}
	if len(s.header) > maxKeptFields {
		s.header = nil
	}
	clear(s.header)
}

// readPlain reads a plain header, as most are: HTTP/1.1, completely buffered, with one
// Content-Length, and with nothing ambiguous. Its result equals http.ReadResponse's and takes a
// third of the allocations. For any other header it reads nothing and returns nil;
// http.ReadResponse then reads it.
//
// If s is not nil, the answer uses its memory.
func (c *conn) readPlain(req *http.Request, s *Scratch) *answer {
	if req.Method == http.MethodHead {
		return nil
	}
	there, _ := c.br.Peek(c.br.Buffered())
	end := bytes.Index(there, []byte("\r\n\r\n"))
	if end < 0 || !bytes.HasPrefix(there, []byte("HTTP/1.1 ")) {
		return nil
	}
	line, fields, _ := strings.Cut(string(there[:end+len("\r\n")]), "\r\n")
	status := line[len("HTTP/1.1 "):]
	code, ok := plainStatus(status)
	if !ok {
		return nil
	}
	if s == nil {
		s = new(Scratch)
	}
	if s.header == nil {
		s.header = make(http.Header)
	}
	length, ok := plainFields(fields, s.header)
	if !ok {
		clear(s.header)
		return nil
	}
	c.br.Discard(end + len("\r\n\r\n"))
	a := &s.answer
	a.Response = http.Response{Status: status, StatusCode: code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: s.header, ContentLength: length, Request: req}
	if length == 0 {
		a.Body = http.NoBody
	}
	return a
}

// plainStatus returns the code of a status line whose response may have a body.
func plainStatus(s string) (code int, ok bool) {
	if len(s) < 3 || len(s) > 3 && s[3] != ' ' || !hasNoControls(s) {
		return 0, false
	}
	for _, digit := range []byte(s[:3]) {
		if digit < '0' || digit > '9' {
			return 0, false
		}
		code = 10*code + int(digit-'0')
	}
	return code, code >= 200 && code != http.StatusNoContent && code != http.StatusNotModified
}

// plainFields adds the fields in lines, each of which ends with CR LF, to h. It reports false if
// one of them is not plain.
func plainFields(lines string, h http.Header) (length int64, ok bool) {
	length = -1
	values := make([]string, 0, strings.Count(lines, "\r\n"))
	for lines != "" {
		var line string
		line, lines, _ = strings.Cut(lines, "\r\n")
		name, value, _ := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if len(name) == len(line) || !httpguts.ValidHeaderFieldName(name) || !hasNoControls(value) {
			return 0, false
		}
		switch name = textproto.CanonicalMIMEHeaderKey(name); name {
		case "Transfer-Encoding", "Trailer", "Pragma":
			return 0, false
		case "Connection":
			if !strings.EqualFold(value, "keep-alive") {
				return 0, false
			}
		case "Content-Length":
			n, err := strconv.ParseUint(value, 10, 63)
			if err != nil || length >= 0 {
				return 0, false
			}
			length = int64(n)
		}
		if before := h[name]; before != nil {
			h[name] = append(before, value)
			continue
		}
		values = append(values, value)
		h[name] = values[len(values)-1 : len(values) : len(values)]
	}
	return length, length >= 0
}

// hasNoControls reports whether s has no control characters.
func hasNoControls(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' && s[i] != '\t' || s[i] == 0x7f {
			return false
		}
	}
	return true
}
