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

// Limits on what a check reads, so that a target cannot make it hold more.
const (
	maxHeader  = 64 << 10
	maxBody    = 64 << 10
	maxInterim = 8 // 1xx answers before the final one
)

// HTTP is a [Check] that sends one HTTP/1.1 request on a connection of its own and looks at
// the answer. Targets with the schemes https and wss are asked over TLS, all others (tcp
// included) in plain text. No proxy of the environment is used, and no redirect is followed:
// an answer counts as it is. The zero value asks for / and takes 2xx and 3xx.
type HTTP struct {
	// Method is the request's method. Empty means GET.
	Method string

	// Path is the request's path, with a query if need be, escaped as it shall be sent. It is
	// appended to the path of the target's URL. Empty means "/".
	Path string

	// Host is the request's Host. Empty means the one of the target's URL.
	Host string

	// Header holds further header fields. It is not changed. Host, Connection,
	// Content-Length and Transfer-Encoding in it are not sent.
	Header http.Header

	// Statuses are those of a healthy target. Nil means 200 to 399.
	Statuses []int

	// Contains is text that the body of a healthy target's answer has in its first 64 KiB.
	// Empty means that the body is not searched. The answer must be complete either way,
	// as far as those 64 KiB reach.
	Contains string

	// TLS is used for https and wss targets, with the target's ServerName and Certificate in
	// it if it has them; see [balancer.Target.TLSConfig]. Nil means the zero [tls.Config]: the
	// certificate is verified against the system's roots. It is cloned and never changed.
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
	conn, err := a.open()
	if err != nil {
		return err
	}
	defer conn.Close()
	req := c.request(t)
	res, err := a.exchange(conn, req)
	if err != nil {
		return err
	}
	if err := c.status(res); err != nil {
		return err
	}
	return c.body(a, res)
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
	for _, status := range c.Statuses {
		if status < 200 || status > 999 {
			return fmt.Errorf("health: HTTP check: no final status is %d", status)
		}
	}
	return validateRequest("HTTP", c.Path, c.Host, c.Header)
}

func (c HTTP) status(res *http.Response) error {
	if c.Statuses == nil && res.StatusCode >= 200 && res.StatusCode < 400 || slices.Contains(c.Statuses, res.StatusCode) {
		return nil
	}
	want := "2xx or 3xx"
	if c.Statuses != nil {
		want = strings.Trim(strings.ReplaceAll(fmt.Sprint(c.Statuses), " ", " or "), "[]")
	}
	return &failure{reason: fmt.Sprintf("status %d, expected %s", res.StatusCode, want)}
}

// body reads the answer's body, within its limit, and searches it.
func (c HTTP) body(a *attempt, res *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return &failure{reason: fmt.Sprintf("the answer ended after %d octets of its body", len(body)), err: err}
		}
		return a.fail(err, "answer not complete")
	}
	if !bytes.Contains(body, []byte(c.Contains)) {
		return &failure{reason: fmt.Sprintf("the answer does not contain %q", c.Contains)}
	}
	return nil
}

// exchange sends req and reads the header of the final answer.
func (a *attempt) exchange(conn net.Conn, req *http.Request) (*http.Response, error) {
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
			in.left = 16 * maxBody // each chunk has lines around it; the caller limits what is kept
			return res, nil
		}
	}
	return nil, &failure{reason: "too many 1xx answers"}
}

// noAnswer explains why no header could be read. What came of the connection says more than
// err, which is the parser's view of it.
func (a *attempt) noAnswer(in *intake, err error) error {
	switch {
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

// An intake reads a limited number of octets from a connection. Its first error stays: those
// who parse may drop one and read on, and a connection that was reset then says just EOF.
type intake struct {
	conn net.Conn
	left int
	any  bool // something came
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
	in.err = err
	return n, err
}
