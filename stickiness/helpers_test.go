package stickiness_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stretchr/testify/require"
)

// plain is a codec that shows in the tests what a ticket holds: "target" or
// "target@unix-seconds". A value that begins with "!" is none.
type plain struct{}

func (plain) Encode(t *cookie.Ticket) (string, error) {
	if t.Target == "unencodable" {
		return "", cookie.ErrMalformed
	}
	return t.Target, nil
}

func (plain) Decode(value string) (cookie.Ticket, error) {
	if strings.HasPrefix(value, "!") {
		return cookie.Ticket{}, cookie.ErrMalformed
	}
	return cookie.Ticket{Target: value}, nil
}

// newLB returns a policy and fails the test on an error.
func newLB(t testing.TB, o stickiness.LBCookieOptions) *stickiness.LBCookie {
	t.Helper()
	p, err := stickiness.NewLBCookie(o)
	require.NoError(t, err)
	return p
}

// newApp returns a policy for the application's cookie SID and fails the test on an error.
func newApp(t testing.TB, o stickiness.AppCookieOptions) *stickiness.AppCookie {
	t.Helper()
	o.Cookie = "SID"
	p, err := stickiness.NewAppCookie(o)
	require.NoError(t, err)
	return p
}

// get returns a request with these Cookie lines.
func get(cookies ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "http://www.example.com/shop/cart", nil)
	for _, c := range cookies {
		r.Header.Add("Cookie", c)
	}
	return r
}

// at returns a request for that target, as the client has sent it.
func at(target string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, target, nil)
	r.Host = "www.example.com"
	return r
}

// answer handles one request: the policy looks it up, the target answers with header h (nil:
// empty), and the policy binds. edit may change the binding before that.
func answer(p stickiness.Policy, r *http.Request, target string, h http.Header, edit ...func(*stickiness.Binding)) *stickiness.Binding {
	if h == nil {
		h = http.Header{}
	}
	b := &stickiness.Binding{Request: r, Header: h, Target: target, Seen: p.Lookup(r, nil)}
	for i := range b.Seen {
		c := &b.Seen[i]
		if c.Reason == stickiness.Usable && (b.From == nil || c.Target == target && b.From.Target != target) {
			b.From = c
		}
	}
	for _, e := range edit {
		e(b)
	}
	p.Bind(b)
	return b
}

func overTLS(b *stickiness.Binding)  { b.TLS = true }
func detoured(b *stickiness.Binding) { b.Detour = true }

// set returns a response header with these Set-Cookie lines.
func set(lines ...string) http.Header { return http.Header{"Set-Cookie": lines} }

// lines returns the Set-Cookie lines of a response with its values of name replaced by
// "*", so that they can be compared.
func lines(b *stickiness.Binding, name string) []string {
	var out []string
	for _, l := range b.Header["Set-Cookie"] {
		if rest, ok := strings.CutPrefix(l, name+"="); ok {
			value, attributes, _ := strings.Cut(rest, ";")
			if value != "" {
				l = name + "=*;" + attributes
			}
			l = strings.TrimSuffix(l, ";")
		}
		out = append(out, l)
	}
	return out
}

// sent returns the Cookie line with which a client answers all Set-Cookie lines.
func sent(b *stickiness.Binding) string {
	var pairs []string
	for _, l := range b.Header["Set-Cookie"] {
		pair, _, _ := strings.Cut(l, ";")
		pairs = append(pairs, pair)
	}
	return strings.Join(pairs, "; ")
}

// targets returns the targets of the candidates, or their reasons in brackets.
func targets(found []stickiness.Candidate) []string {
	out := []string{}
	for _, c := range found {
		if c.Reason == stickiness.Usable {
			out = append(out, c.Target)
		} else {
			out = append(out, "["+c.Reason.String()+"]")
		}
	}
	return out
}

// date formats a time as a cookie's date.
func date(t time.Time) string { return t.UTC().Format(http.TimeFormat) }
