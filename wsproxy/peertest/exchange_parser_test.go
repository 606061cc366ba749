package peertest_test

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// A field is a header or trailer line.
type field struct{ name, value string }

// A message is a request as RFC 9112 reads it.
type message struct {
	method, target, proto string
	fields                []field
	body                  []byte
	trailer               []field
	whole                 bool // the body was read to its end, trailers included
}

// values returns the values of all fields of that name.
func (m *message) values(name string) (all []string) {
	for _, f := range m.fields {
		if strings.EqualFold(f.name, name) {
			all = append(all, f.value)
		}
	}
	return all
}

// has reports whether a list field has this element, letter case aside.
func (m *message) has(name, element string) bool {
	for _, value := range m.values(name) {
		for e := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.Trim(e, " \t"), element) {
				return true
			}
		}
	}
	return false
}

// last reports whether nothing after this request is one: the client is done (RFC 9112 section
// 9.3), or the connection is a tunnel or ends (CONNECT).
func (m *message) last() bool {
	if m.method == "CONNECT" || m.has("Connection", "close") {
		return true
	}
	return m.proto == "HTTP/1.0" && !m.asksToKeepAlive()
}

// asksToKeepAlive reports whether the client of HTTP/1.0 wants to use the connection again. It is
// as lenient as net/http's server, which looks for the word: nobody is harmed by that.
func (m *message) asksToKeepAlive() bool {
	for _, value := range m.values("Connection") {
		for word := range strings.FieldsFuncSeq(value, func(r rune) bool { return strings.ContainsRune(" \t,", r) }) {
			if strings.EqualFold(word, "keep-alive") {
				return true
			}
		}
	}
	return false
}

// parseRequests returns the requests in a client's bytes, up to the first one that RFC 9112 does
// not allow; err is why. The last request may lack the end of its body. Where the RFC allows more
// than one reading (a bare LF ends a line of the header section, a folded line continues a field,
// Transfer-Encoding wins over Content-Length and means nothing in HTTP/1.0), it allows that one
// which finds more.
func parseRequests(in []byte) (all []*message, err error) {
	br := bufio.NewReader(bytes.NewReader(in))
	for {
		m, err := readHead(br)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, m)
		if err := m.readBody(br); err != nil {
			return all, err
		}
		if m.last() {
			return all, nil
		}
	}
}

var errTooLong = errors.New("a line of more than 1 MiB")

// readLine returns a line without its end. crlf demands that the end is CRLF.
func readLine(br *bufio.Reader, crlf bool) (string, error) {
	var line []byte
	for {
		piece, err := br.ReadSlice('\n')
		line = append(line, piece...)
		if len(line) > 1<<20 {
			return "", errTooLong
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil {
			if err == io.EOF && len(line) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return "", err
		}
		break
	}
	text, found := strings.CutSuffix(string(line), "\r\n")
	if !found {
		if crlf {
			return "", fmt.Errorf("bare LF after %q", line)
		}
		text = strings.TrimSuffix(text, "\n")
	}
	return text, nil
}

// readHead reads the request line and the header section. It returns io.EOF if there is nothing
// more.
func readHead(br *bufio.Reader) (*message, error) {
	for { // RFC 9112 section 2.2
		next, err := br.Peek(1)
		if err != nil {
			return nil, err
		}
		if next[0] != '\r' && next[0] != '\n' {
			break
		}
		br.Discard(1)
	}
	line, err := readLine(br, false)
	if err != nil {
		return nil, err
	}
	m := new(message)
	var ok1, ok2 bool
	m.method, line, ok1 = strings.Cut(line, " ")
	m.target, m.proto, ok2 = strings.Cut(line, " ")
	minor, isHTTP := strings.CutPrefix(m.proto, "HTTP/1.")
	if !ok1 || !ok2 || !isToken(m.method) || m.target == "" || !isHTTP || len(minor) != 1 || minor < "0" || minor > "9" {
		return nil, fmt.Errorf("request line %q %q %q", m.method, m.target, m.proto)
	}
	m.fields, err = readFields(br)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return m, err
}

// readFields reads lines until the empty one.
func readFields(br *bufio.Reader) ([]field, error) {
	var all []field
	for {
		line, err := readLine(br, false)
		if err != nil || line == "" {
			return all, err
		}
		if line[0] == ' ' || line[0] == '\t' {
			if len(all) == 0 {
				return nil, fmt.Errorf("the first line is folded: %q", line)
			}
			last := &all[len(all)-1]
			last.value = strings.Trim(last.value+" "+strings.Trim(line, " \t"), " ")
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) {
			return nil, fmt.Errorf("field line %q", line)
		}
		all = append(all, field{name, strings.Trim(value, " \t")})
	}
}

func isToken(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

// length returns the length of the body, -1 for chunked (RFC 9112 section 6.3).
func (m *message) length() (int64, error) {
	if codings := m.values("Transfer-Encoding"); len(codings) > 0 && m.proto != "HTTP/1.0" {
		if len(codings) > 1 || !strings.EqualFold(codings[0], "chunked") {
			return 0, fmt.Errorf("transfer encoding %q in %s", codings, m.proto)
		}
		return -1, nil
	}
	lengths := m.values("Content-Length")
	if len(lengths) == 0 {
		return 0, nil
	}
	if len(slices.Compact(lengths)) > 1 {
		return 0, fmt.Errorf("content lengths %q", lengths)
	}
	if strings.Trim(lengths[0], "0123456789") != "" {
		return 0, fmt.Errorf("content length %q", lengths[0])
	}
	return strconv.ParseInt(lengths[0], 10, 64)
}

func (m *message) readBody(br *bufio.Reader) error {
	n, err := m.length()
	switch {
	case err != nil:
		return err
	case n < 0:
		err = m.readChunks(br)
	default:
		var b bytes.Buffer
		_, err = io.CopyN(&b, br, n)
		m.body = b.Bytes()
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	m.whole = err == nil
	return err
}

func (m *message) readChunks(br *bufio.Reader) error {
	for {
		line, err := readLine(br, true)
		if err != nil {
			return err
		}
		size, _, _ := strings.Cut(line, ";")
		size = strings.TrimRight(size, " \t") // RFC 9112 section 7.1.1: bad whitespace before an extension
		if size == "" || strings.Trim(size, "0123456789abcdefABCDEF") != "" {
			return fmt.Errorf("chunk size %q", line)
		}
		if size = strings.TrimLeft(size, "0"); len(size) > 15 {
			return fmt.Errorf("a chunk of 0x%s octets", size)
		}
		n, _ := strconv.ParseInt("0"+size, 16, 64)
		if n == 0 {
			m.trailer, err = readFields(br)
			return err
		}
		var b bytes.Buffer
		_, err = io.CopyN(&b, br, n)
		m.body = append(m.body, b.Bytes()...)
		if err != nil {
			return err
		}
		if end, err := readLine(br, true); err != nil || end != "" {
			return cmp.Or(err, fmt.Errorf("%q after a chunk", end))
		}
	}
}
