package health

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/stickylb/stickylb/balancer"
)

// Limits for what a check reads from a target.
const (
	maxHeader  = 64 << 10
	maxBody    = 64 << 10
	maxInterim = 8 // 1xx answers before the final one
)

// HTTP is a [Check] that sends one request on a connection of its own and judges the answer.
// Targets with the schemes https and wss are checked over TLS, all others (tcp included) in plain
// text. The protocol is HTTP/2 if a target over TLS chooses it (ALPN) or if the scheme is h2c, and
// HTTP/1.1 otherwise, as for requests that a proxy sends. The check uses no proxy of the
// environment and follows no redirect. The zero value requests / and accepts 2xx and 3xx.
type HTTP struct {
	// Method is the request's method. Empty means GET.
	Method string

	// Path is the request's path, and may have a query. It must be escaped as it is to be sent. It
	// is appended to the path of the target's URL. Empty means "/".
	Path string

	// Host is the request's Host. Empty means the one of the target's URL.
	Host string

	// Header holds further header fields. It is not changed. Host, Connection, Content-Length and
	// Transfer-Encoding in it are not sent. Over HTTP/2 the fields that HTTP/2 forbids are not sent
	// either: Keep-Alive, Proxy-Connection, Upgrade, and a TE other than trailers.
	Header http.Header

	// Statuses are the statuses of a healthy target. None means 200 to 399.
	Statuses []int

	// ReservedStatuses are the statuses of a target that answers but wants bound sessions only,
	// such as the 404 or the 503 of a readiness endpoint. The target becomes reserved, see
	// [ErrReserved]. The answer must be complete, and Contains is not searched for. None means that
	// no status reserves. A status that is also a healthy target's is refused.
	ReservedStatuses []int

	// Contains is text that a healthy target's answer has in the first 64 KiB of its body. Empty
	// means that the body is not searched. In both cases the answer must be complete within those
	// 64 KiB.
	Contains string

	// TLS is used for https and wss targets. The target's ServerName and Certificate replace those
	// of TLS if they are set, see [balancer.Target.TLSConfig]. Nil means the zero [tls.Config],
	// which verifies the certificate against the system's roots. Nil NextProtos mean h2 and
	// http/1.1. TLS is cloned and never changed.
	TLS *tls.Config

	// Dial opens the connection. Nil means a plain [net.Dialer].
	Dial DialFunc
}

// Check implements [Check].
func (c HTTP) Check(ctx context.Context, t balancer.Target) error {
	if err := c.validate(); err != nil {
		return err
	}
	a := begin(ctx, t, c.Dial, c.TLS)
	conn, err := a.open("h2", "http/1.1")
	if err != nil {
		return err
	}
	defer a.hangUp(conn)
	req := c.request(t)
	res, err := a.exchange(conn, req)
	if err != nil {
		return err
	}
	reserved := slices.Contains(c.ReservedStatuses, res.StatusCode)
	if !reserved && !c.accepts(res.StatusCode) {
		return c.unexpected(res.StatusCode)
	}
	body, err := readBody(a, res)
	switch {
	case err != nil:
		return err
	case reserved:
		return &failure{reason: fmt.Sprintf("status %d: %s", res.StatusCode, boundOnly), err: ErrReserved}
	case !bytes.Contains(body, []byte(c.Contains)):
		return &failure{reason: fmt.Sprintf("the answer does not contain %q", c.Contains)}
	}
	return nil
}

func (c HTTP) request(t balancer.Target) *http.Request {
	req := newRequest(t, c.Path, c.Host, c.Header)
	req.Method = c.Method
	req.Close = true
	return req
}

// validate implements [validator].
func (c HTTP) validate() error {
	if !isToken(cmp.Or(c.Method, http.MethodGet)) || c.Method == http.MethodConnect {
		return fmt.Errorf("health: HTTP check: method %q cannot be used", c.Method)
	}
	for _, status := range slices.Concat(c.Statuses, c.ReservedStatuses) {
		if status < 200 || status > 999 {
			return fmt.Errorf("health: HTTP check: no final status is %d", status)
		}
	}
	for _, status := range c.ReservedStatuses {
		if c.accepts(status) {
			return fmt.Errorf("health: HTTP check: status %d is in ReservedStatuses and also a healthy target's, which has %s",
				status, c.expected())
		}
	}
	return validateRequest("HTTP", c.Path, c.Host, c.Header)
}

// accepts reports whether status is one of a healthy target.
func (c HTTP) accepts(status int) bool {
	if len(c.Statuses) == 0 {
		return status >= 200 && status < 400
	}
	return slices.Contains(c.Statuses, status)
}

// expected returns the statuses of a healthy target, in words.
func (c HTTP) expected() string {
	if len(c.Statuses) == 0 {
		return "2xx or 3xx"
	}
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(c.Statuses), " ", " or "), "[]")
}

func (c HTTP) unexpected(status int) error {
	return &failure{reason: fmt.Sprintf("status %d, expected %s", status, c.expected())}
}

// readBody reads the answer's body, within its limit.
func readBody(a *attempt, res *http.Response) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, &failure{reason: fmt.Sprintf("the answer ended after %d octets of its body", len(body)), err: err}
	case err != nil:
		return nil, a.fail(err, "answer not complete")
	}
	return body, nil
}

// exchange sends req and reads the header of the final answer.
func (a *attempt) exchange(conn net.Conn, req *http.Request) (*http.Response, error) {
	if a.http2 {
		return a.exchangeHTTP2(conn, req, nil)
	}
	if err := req.Write(conn); err != nil {
		return nil, a.fail(err, "request not taken")
	}
	in := &intake{conn: conn, left: maxHeader}
	br := bufio.NewReader(in)
	for range maxInterim {
		res, err := http.ReadResponse(br, req)
		if err != nil {
			return nil, a.noAnswer(in, err)
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			in.left = 16 * maxBody // more than maxBody, because each chunk has lines around it; the caller limits what is kept
			return res, nil
		}
	}
	return nil, &failure{reason: "too many 1xx answers"}
}

// noAnswer returns the failure for an answer without a complete header. The connection's error says
// more than err, which comes from the parser.
func (a *attempt) noAnswer(in *intake, err error) error {
	switch {
	case isHTTP2(in.head):
		return &failure{reason: "the target answers with HTTP/2 to HTTP/1.1", err: err}
	case in.err == nil:
		return &failure{reason: "the answer is not HTTP", err: err}
	case errors.Is(in.err, errTooLarge):
		return &failure{reason: "the answer's header is larger than 64 KiB", err: err}
	case errors.Is(in.err, io.EOF) && !in.any:
		return &failure{reason: "connection closed without an answer", err: err}
	case errors.Is(in.err, io.EOF):
		return &failure{reason: "the answer ended within its header", err: err}
	case in.any:
		return a.fail(in.err, "answer not complete")
	}
	return a.fail(in.err, "no answer")
}

var errTooLarge = errors.New("health: answer too large")

// An intake reads a limited number of octets from a connection. It keeps its first error and
// returns it from every later Read: a parser may drop the first error and read again, and a
// connection that was reset then returns only EOF.
type intake struct {
	conn net.Conn
	left int
	any  bool   // something was read
	head []byte // the first octets, as many as isHTTP2 needs
	err  error
}

// Read implements [io.Reader].
func (in *intake) Read(p []byte) (int, error) {
	if in.err == nil && in.left <= 0 {
		in.err = errTooLarge
	}
	if in.err != nil {
		return 0, in.err
	}
	n, err := in.conn.Read(p[:min(len(p), in.left)])
	in.left -= n
	in.any = in.any || n > 0
	in.head = append(in.head, p[:min(n, frameHeader-len(in.head))]...)
	in.err = err
	return n, err
}
