package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// An outgoing is a request that is ready to be sent.
type outgoing struct {
	t      *Transport
	req    *http.Request
	ctx    context.Context
	trace  *httptrace.ClientTrace // may be nil
	to     Address
	body   io.ReadCloser // nil without one
	length int64         // of the body; -1 if it is chunked
	expect bool          // the body waits for a 100
	header []byte        // the encoded header
	into   *Scratch      // memory for the response; may be nil
	sorted []field       // memory that encode reuses
}

type field struct {
	name   string
	values []string
}

// prepare refuses requests that cannot be sent, and encodes the header.
func (t *Transport) prepare(req *http.Request, to Address) (*outgoing, error) {
	if err := check(req); err != nil {
		return nil, err
	}
	o, ok := t.outgoing.Get().(*outgoing)
	if !ok {
		o = new(outgoing)
	}
	if to.Addr == "" {
		to = Address{"tcp", hostPort(req.URL)}
	}
	o.t, o.req, o.ctx, o.to = t, req, req.Context(), to
	o.trace = httptrace.ContextClientTrace(o.ctx)
	err := o.frame()
	if err == nil {
		err = o.encode()
	}
	if err != nil {
		o.free()
		return nil, err
	}
	o.expect = o.body != nil && req.ProtoAtLeast(1, 1) && httpguts.HeaderValuesContainsToken(req.Header["Expect"], "100-continue")
	return o, nil
}

// plain reports whether the request can be written at once, and whether no trace wants a call
// between the request and the answer.
func (o *outgoing) plain() bool {
	t := o.trace
	return o.body == nil && len(o.header) <= inlineHeader && (t == nil || t.GotConn == nil && t.PutIdleConn == nil &&
		t.GotFirstResponseByte == nil && t.WroteHeaderField == nil && t.WroteHeaders == nil && t.WroteRequest == nil)
}

// maxKept is the largest header buffer that is kept for reuse.
const maxKept = 64 << 10

// free makes o available for another request. Nobody may use o any more.
func (o *outgoing) free() {
	t := o.t
	clear(o.sorted)
	*o = outgoing{header: o.header[:0], sorted: o.sorted[:0]}
	if cap(o.header) > maxKept {
		o.header = nil
	}
	t.outgoing.Put(o)
}

// check refuses what http.Transport refuses, and what it should refuse.
func check(req *http.Request) error {
	switch {
	case req.URL == nil:
		return errors.New("upstream: the request has no URL")
	case req.Header == nil:
		return errors.New("upstream: the request has no header map")
	case req.URL.Scheme != "http":
		return fmt.Errorf("upstream: unsupported scheme %q", req.URL.Scheme)
	case req.URL.Host == "":
		return errors.New("upstream: the URL has no host")
	case req.Method == http.MethodConnect || req.Method != "" && !httpguts.ValidHeaderFieldName(req.Method): // a token, too
		return fmt.Errorf("upstream: invalid method %q", req.Method)
	}
	if err := checkFields("header", req.Header); err != nil {
		return err
	}
	return checkFields("trailer", req.Trailer)
}

func checkFields(what string, h http.Header) error {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("upstream: invalid %s name %q", what, name)
		}
		for _, v := range values {
			if !httpguts.ValidHeaderFieldValue(v) {
				return fmt.Errorf("upstream: invalid value of %s %q", what, name) // the value may be a secret
			}
		}
	}
	return nil
}

// hostPort returns the address to dial, as http.Transport does.
func hostPort(u *url.URL) string {
	if i := strings.LastIndexByte(u.Host, ':'); i >= 0 && i+1 < len(u.Host) && u.Port() == u.Host[i+1:] && isASCII(u.Host) {
		return u.Host
	}
	host, err := httpguts.PunycodeHostPort(u.Hostname())
	if err != nil {
		host = u.Hostname()
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	return net.JoinHostPort(host, port)
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// frame determines the length of the body (RFC 9112 section 6).
func (o *outgoing) frame() error {
	r := o.req
	if len(r.TransferEncoding) > 1 || len(r.TransferEncoding) == 1 && r.TransferEncoding[0] != "chunked" {
		return fmt.Errorf("upstream: unsupported transfer coding %q", r.TransferEncoding)
	}
	if r.Body == nil || r.Body == http.NoBody {
		if r.ContentLength > 0 {
			return fmt.Errorf("upstream: a content length of %d without a body", r.ContentLength)
		}
		o.body, o.length = nil, 0
		return nil
	}
	o.body, o.length = r.Body, r.ContentLength
	if o.length <= 0 || len(r.TransferEncoding) > 0 {
		o.length = -1
	}
	if o.length < 0 && len(r.TransferEncoding) == 0 && usuallyLacksBody(r.Method) {
		probed := probe(o.ctx, r.Body)
		if probed == nil {
			closeBody(o.body)
			o.body, o.length = nil, 0
			return nil
		}
		o.body = probed
	}
	return nil
}

// encode encodes the header. It sorts the names, so that equal requests are equal on the wire.
func (o *outgoing) encode() error {
	r := o.req
	host, err := hostHeader(r)
	if err != nil {
		return err
	}
	b := append(o.header[:0], r.Method...)
	if r.Method == "" {
		b = append(b, http.MethodGet...)
	}
	b = append(b, ' ')
	start := len(b)
	b = appendTarget(b, r.URL)
	for _, c := range b[start:] {
		if c <= ' ' || c == 0x7f {
			return errors.New("upstream: a space or a control character in the request target")
		}
	}
	b = append(b, " HTTP/1.1\r\n"...)
	b = appendField(b, "Host", host)
	if agent := r.Header["User-Agent"]; len(agent) > 0 && agent[0] != "" {
		b = appendField(b, "User-Agent", agent[0])
	}
	if r.Close && !httpguts.HeaderValuesContainsToken(r.Header["Connection"], "close") {
		b = appendField(b, "Connection", "close")
	}
	if b, err = o.appendFraming(b); err != nil {
		return err
	}
	o.sorted = appendSorted(o.sorted[:0], r.Header)
	for _, f := range o.sorted {
		for _, v := range f.values {
			b = appendField(b, f.name, v)
		}
	}
	o.header = append(b, '\r', '\n')
	return nil
}

// appendSorted appends the fields of h that the caller may set, sorted by name.
func appendSorted(fields []field, h http.Header) []field {
	for name, values := range h {
		if !isOurs(name) {
			fields = append(fields, field{name, values})
		}
	}
	slices.SortFunc(fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return fields
}

// isOurs reports whether only encode writes this field. Such a field in the header map is not sent,
// whatever its letter case.
func isOurs(name string) bool {
	switch len(name) {
	case len("Host"):
		return strings.EqualFold(name, "Host")
	case len("Trailer"):
		return strings.EqualFold(name, "Trailer")
	case len("User-Agent"):
		return strings.EqualFold(name, "User-Agent")
	case len("Content-Length"):
		return strings.EqualFold(name, "Content-Length")
	case len("Transfer-Encoding"):
		return strings.EqualFold(name, "Transfer-Encoding")
	}
	return false
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ':', ' ')
	b = append(b, textproto.TrimString(value)...)
	return append(b, '\r', '\n')
}

// appendTarget appends url.URL.RequestURI without allocating.
func appendTarget(b []byte, u *url.URL) []byte {
	if u.Opaque != "" {
		return append(b, u.RequestURI()...)
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	b = append(b, path...)
	if u.ForceQuery || u.RawQuery != "" {
		b = append(b, '?')
		b = append(b, u.RawQuery...)
	}
	return b
}

// appendFraming appends the fields that say how long the body is. Servers expect a Content-Length
// with POST, PUT and PATCH even without a body.
func (o *outgoing) appendFraming(b []byte) ([]byte, error) {
	switch {
	case o.length > 0:
	case o.length == 0:
		if m := o.req.Method; m != http.MethodPost && m != http.MethodPut && m != http.MethodPatch {
			return b, nil
		}
	default:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		if len(o.req.Trailer) == 0 {
			return b, nil
		}
		names, err := trailerNames(o.req.Trailer)
		return appendField(b, "Trailer", strings.Join(names, ",")), err
	}
	b = append(b, "Content-Length: "...)
	b = strconv.AppendInt(b, o.length, 10)
	return append(b, '\r', '\n'), nil
}

func trailerNames(h http.Header) ([]string, error) {
	names := make([]string, 0, len(h))
	for name := range h {
		name = http.CanonicalHeaderKey(name)
		switch name {
		case "Transfer-Encoding", "Trailer", "Content-Length":
			return nil, fmt.Errorf("upstream: %s cannot be a trailer", name)
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

// hostHeader returns the request's host, or the target's. It drops the zone of an IPv6 address (RFC
// 6874).
func hostHeader(r *http.Request) (string, error) {
	host := r.Host
	if host == "" {
		host = r.URL.Host
	}
	ascii, err := httpguts.PunycodeHostPort(host)
	if err != nil || !httpguts.ValidHostHeader(ascii) {
		return "", fmt.Errorf("upstream: invalid host %q", host)
	}
	if !strings.HasPrefix(ascii, "[") {
		return ascii, nil
	}
	end := strings.LastIndexByte(ascii, ']')
	if end < 0 {
		return ascii, nil
	}
	if zone := strings.LastIndexByte(ascii[:end], '%'); zone >= 0 {
		return ascii[:zone] + ascii[end:], nil
	}
	return ascii, nil
}

// tellFields reports the fields of the written header to the trace.
func (o *outgoing) tellFields() {
	if o.trace == nil {
		return
	}
	if told := o.trace.WroteHeaderField; told != nil {
		lines := strings.Split(string(o.header), "\r\n")
		lines = lines[1 : len(lines)-2]
		for len(lines) > 0 {
			name, _, _ := strings.Cut(lines[0], ": ")
			var values []string
			for len(lines) > 0 && strings.HasPrefix(lines[0], name+": ") {
				values = append(values, lines[0][len(name)+2:])
				lines = lines[1:]
			}
			if name == "Trailer" {
				values = strings.Split(values[0], ",")
			}
			told(name, values)
		}
	}
	if o.trace.WroteHeaders != nil {
		o.trace.WroteHeaders()
	}
}

// rewind gets a new copy of the body. It reports false if that is impossible.
func (o *outgoing) rewind() bool {
	if o.body == nil {
		return true
	}
	if o.req.GetBody == nil {
		return false
	}
	body, err := o.req.GetBody()
	if err != nil {
		return false
	}
	o.body = body
	return true
}

func closeBody(body io.Closer) {
	if body != nil {
		body.Close()
	}
}
