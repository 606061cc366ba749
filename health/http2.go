package health

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Limits of HTTP/2. A check opens a flow-control window for all that it will read, so it never
// updates the window.
const (
	frameHeader = 9            // RFC 9113, section 4.1
	maxFrame    = 16 << 10     // RFC 9113, section 4.2: every peer must accept this
	flow        = 16 * maxBody // of the stream and of the connection
	initialFlow = 65535        // RFC 9113, section 6.9.2
	maxPreamble = 4 * maxHeader
)

// A stream is the only request of a check over HTTP/2 (RFC 9113), and its answer. It runs on the
// check's own goroutine. Its reads are limited in octets, for all kinds of frames.
type stream struct {
	a      *attempt
	conn   net.Conn
	in     *intake
	br     *bufio.Reader
	framer *http2.Framer
	bare   bool // the method or the status means that the answer has no body

	settled  bool // the target's SETTINGS have come
	answered bool // the header of the final answer has come
	trailer  http.Header
	data     []byte // the unread part of the latest DATA frame
	promised int64  // the rest of Content-Length; negative: unknown
	err      error  // io.EOF: the answer is complete
}

// exchangeHTTP2 sends req with a body and reads the header of the final answer. The answer's
// Trailer is set once its Body has been read to the end.
func (a *attempt) exchangeHTTP2(conn net.Conn, req *http.Request, body []byte) (*http.Response, error) {
	in := &intake{conn: conn, left: maxPreamble}
	s := &stream{a: a, conn: conn, in: in, br: bufio.NewReader(in), bare: req.Method == http.MethodHead, trailer: make(http.Header)}
	s.framer = http2.NewFramer(conn, s.br)
	s.framer.SetMaxReadFrameSize(maxFrame)
	s.framer.MaxHeaderListSize = maxHeader
	s.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := conn.Write(opening(req, body)); err != nil {
		return nil, a.fail(err, "request not taken")
	}
	return s.answer()
}

// opening returns everything that a client sends for one request: RFC 9113, sections 3.4 and 8.3.1.
func opening(req *http.Request, body []byte) []byte {
	var out bytes.Buffer
	out.WriteString(http2.ClientPreface)
	w := http2.NewFramer(&out, nil)
	w.WriteSettings(
		http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: flow},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: maxHeader},
	)
	w.WriteWindowUpdate(0, flow-initialFlow)
	block := headerBlock(req, body)
	first := block[:min(len(block), maxFrame)]
	block = block[len(first):]
	w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndHeaders: len(block) == 0, EndStream: body == nil})
	for len(block) > 0 {
		next := block[:min(len(block), maxFrame)]
		block = block[len(next):]
		w.WriteContinuation(1, len(block) == 0, next)
	}
	if body != nil {
		w.WriteData(1, true, body)
	}
	return out.Bytes()
}

// headerBlock returns the request's header, without the fields that HTTP/2 does not have (RFC
// 9113, section 8.2.2).
func headerBlock(req *http.Request, body []byte) []byte {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	put := func(name, value string) { enc.WriteField(hpack.HeaderField{Name: name, Value: value}) }
	scheme := "http"
	if encrypted(req.URL) {
		scheme = "https"
	}
	put(":method", cmp.Or(req.Method, http.MethodGet))
	put(":scheme", scheme)
	put(":authority", authority(req))
	put(":path", req.URL.RequestURI())
	for name, values := range req.Header {
		switch name {
		case "Host", "Connection", "Proxy-Connection", "Keep-Alive", "Upgrade", "Transfer-Encoding", "Content-Length":
			continue
		}
		for _, value := range values {
			if name == "Te" && value != "trailers" {
				continue
			}
			put(strings.ToLower(name), strings.Trim(value, " \t"))
		}
	}
	switch req.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		put("content-length", strconv.Itoa(len(body))) // RFC 9110, section 8.6
	}
	return block.Bytes()
}

// authority returns the value of Host in HTTP/1.1.
func authority(req *http.Request) string {
	host := cmp.Or(req.Host, req.URL.Host)
	if ascii, err := httpguts.PunycodeHostPort(host); err == nil {
		host = ascii
	}
	if zone := strings.IndexByte(host, '%'); zone >= 0 && strings.HasPrefix(host, "[") {
		end := strings.IndexByte(host, ']')
		host = host[:zone] + host[max(zone, end):] // RFC 6874, section 1: a zone has a meaning only on this machine
	}
	return host
}

// answer reads the header of the final answer.
func (s *stream) answer() (*http.Response, error) {
	if head, _ := s.br.Peek(len("HTTP/")); string(head) == "HTTP/" {
		return nil, &failure{reason: "the target answers with HTTP/1 to HTTP/2"}
	}
	for range maxInterim {
		frame, err := s.next()
		if err != nil {
			return nil, err
		}
		header, ok := frame.(*http2.MetaHeadersFrame)
		if !ok {
			return nil, malformed("a body without a header")
		}
		status, err := strconv.ParseUint(header.PseudoValue("status"), 10, 16)
		switch {
		case err != nil, status < 100, status > 999:
			return nil, malformed(fmt.Sprintf("status %.10q", header.PseudoValue("status")))
		case status >= 200:
			return s.final(int(status), header), nil
		case status == http.StatusSwitchingProtocols, header.StreamEnded():
			return nil, malformed(fmt.Sprintf("status %d in the place of an answer", status)) // sections 8.6 and 8.1
		}
	}
	return nil, &failure{reason: "too many 1xx answers"}
}

// final returns the answer with that status and header.
func (s *stream) final(status int, header *http2.MetaHeadersFrame) *http.Response {
	s.answered = true
	s.in.left = flow
	res := &http.Response{StatusCode: status, Proto: "HTTP/2.0", ProtoMajor: 2, Header: make(http.Header), Trailer: s.trailer, Body: s}
	for _, f := range header.RegularFields() {
		res.Header.Add(f.Name, f.Value)
	}
	s.promised = -1
	if n, err := strconv.ParseUint(res.Header.Get("Content-Length"), 10, 63); err == nil {
		s.promised = int64(n)
	}
	s.bare = s.bare || status == http.StatusNoContent || status == http.StatusNotModified
	if header.StreamEnded() {
		s.end()
	}
	return res
}

// end records that the answer is complete.
func (s *stream) end() {
	s.err = io.EOF
	if s.promised > 0 && !s.bare {
		s.err = io.ErrUnexpectedEOF
	}
}

// Read implements [io.Reader] for the answer's body.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.data) == 0 {
		if s.err == nil {
			s.err = s.more()
		}
		if s.err != nil && len(s.data) == 0 {
			return 0, s.err
		}
	}
	n := copy(p, s.data)
	s.data = s.data[n:]
	return n, nil
}

// Close implements [io.Closer]. It does nothing: exchangeHTTP2's caller closes the connection.
func (s *stream) Close() error { return nil }

// more reads the next frame of the answer's body, or its trailer.
func (s *stream) more() error {
	frame, err := s.next()
	if err != nil {
		return err
	}
	if header, ok := frame.(*http2.MetaHeadersFrame); ok {
		if !header.StreamEnded() || len(header.PseudoFields()) > 0 {
			return malformed("a second header")
		}
		for _, f := range header.RegularFields() {
			s.trailer.Add(f.Name, f.Value)
		}
		s.end()
		return s.err
	}
	data := frame.(*http2.DataFrame)
	s.data = data.Data()
	if s.bare && len(s.data) > 0 {
		s.data = nil
		return malformed("a body where there must be none")
	}
	if s.promised >= 0 {
		if s.promised -= int64(len(s.data)); s.promised < 0 {
			return malformed("a body larger than its Content-Length") // section 8.1.1
		}
	}
	if data.StreamEnded() {
		s.end()
	}
	return s.err
}

// next returns the next DATA or HEADERS frame of the answer. It handles all other frames.
func (s *stream) next() (http2.Frame, error) {
	for {
		frame, err := s.framer.ReadFrame()
		if header, ok := frame.(*http2.MetaHeadersFrame); ok && header.Truncated {
			return nil, &failure{reason: "the answer's header is larger than 64 KiB"}
		}
		if err != nil {
			return nil, s.broken(err)
		}
		if _, ok := frame.(*http2.SettingsFrame); !ok && !s.settled {
			return nil, malformed("it does not begin with SETTINGS") // section 3.4
		}
		s.settled = true
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame, *http2.DataFrame:
			if f.Header().StreamID != 1 {
				return nil, malformed("an answer to a request that was not made")
			}
			return frame, nil
		case *http2.SettingsFrame:
			if !f.IsAck() {
				s.framer.WriteSettingsAck() // an error of writing appears again at the next read
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				s.framer.WritePing(true, f.Data)
			}
		case *http2.RSTStreamFrame:
			return nil, &failure{reason: fmt.Sprintf("the target reset the request: %v", f.ErrCode)}
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo || f.LastStreamID == 0 {
				return nil, goneAway(f)
			} // otherwise the target will still answer
		case *http2.PushPromiseFrame:
			return nil, malformed("a push that was forbidden")
		}
	}
}

// goneAway returns the failure for a GOAWAY frame.
func goneAway(f *http2.GoAwayFrame) error {
	reason := fmt.Sprintf("the target ended the connection: GOAWAY with %v", f.ErrCode)
	if debug := f.DebugData(); len(debug) > 0 {
		reason += ", " + quoted(debug)
	}
	return &failure{reason: reason}
}

// broken returns the failure for an error of reading a frame.
func (s *stream) broken(err error) error {
	_, ofConnection := errors.AsType[http2.ConnectionError](err)
	_, ofStream := errors.AsType[http2.StreamError](err)
	switch {
	case errors.Is(err, http2.ErrFrameTooLarge):
		return malformed("a frame larger than 16 KiB")
	case ofConnection || ofStream:
		if detail := s.framer.ErrorDetail(); detail != nil {
			err = detail
		}
		return malformed(err.Error())
	case s.in.err != nil:
		err = s.in.err
	}
	return s.lost(err)
}

// lost returns the error for a connection that has ended.
func (s *stream) lost(err error) error {
	switch {
	case errors.Is(err, errTooLarge) && !s.answered:
		return &failure{reason: "256 KiB of HTTP/2 without an answer", err: err}
	case errors.Is(err, io.EOF) && s.answered:
		return io.ErrUnexpectedEOF
	case errors.Is(err, io.EOF):
		return &failure{reason: "connection closed without an answer", err: err}
	case s.answered:
		return err // the reader of the body adds the words
	}
	return s.a.fail(err, "no answer")
}

// isHTTP2 reports whether an answer begins with the header of a SETTINGS frame. A server of HTTP/2
// always begins with one (RFC 9113, section 3.4).
func isHTTP2(head []byte) bool {
	const kind, settings = 3, 4
	return len(head) == frameHeader && head[0] == 0 && head[kind] == settings && bytes.Equal(head[kind+1:], make([]byte, 5))
}

func malformed(what string) error {
	return &failure{reason: "the answer is not HTTP/2 as it should be: " + what}
}

// hangUp closes the connection. It first sends GOAWAY to a target of HTTP/2 (RFC 9113, section
// 6.8). Whether that arrives makes no difference to the result.
func (a *attempt) hangUp(conn net.Conn) {
	if a.http2 {
		http2.NewFramer(conn, nil).WriteGoAway(0, http2.ErrCodeNo, nil)
	}
	conn.Close()
}
