package stickinesstest_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/stickiness/stickinesstest"
	"github.com/stretchr/testify/require"
)

var logins atomic.Int64

// login is a response by which an application begins a session.
func login() http.Header {
	return http.Header{
		"Content-Type": {"text/html"},
		"Set-Cookie":   {fmt.Sprintf("SID=%d; Path=/app; Max-Age=600", logins.Add(1))},
	}
}

func TestTestPolicy_AcceptsOurs(t *testing.T) {
	for name, o := range map[string]stickiness.LBCookieOptions{
		"zero":   {},
		"period": {Period: time.Hour, Renew: true, Enforce: true, CORS: stickiness.CORSAlways},
		"paths":  {Path: "/app", PathSpelling: stickiness.SpellVerbatim, Scope: "x"},
	} {
		p, err := stickiness.NewLBCookie(o)
		require.NoError(t, err)
		require.NoError(t, stickinesstest.TestPolicy(p, stickinesstest.Session{}), name)
	}
	p, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: "SID"})
	require.NoError(t, err)
	require.NoError(t, stickinesstest.TestPolicy(p, stickinesstest.Session{Response: login}))
}

// header is a policy of another author: a request header names the target.
type header struct{}

func (header) Lookup(r *http.Request, found []stickiness.Candidate) []stickiness.Candidate {
	if id := r.Header.Get("X-Target"); id != "" {
		found = append(found, stickiness.Candidate{Target: id})
	}
	return found
}

func (header) Bind(*stickiness.Binding) {}

func TestTestPolicy_AcceptsAStrangers(t *testing.T) {
	require.NoError(t, stickinesstest.TestPolicy(header{}, stickinesstest.Session{Request: func(target string) *http.Request {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("X-Target", target)
		return r
	}}))
}

// A faulty policy is a good policy that does one thing before or after each call.
type faulty struct {
	stickiness.Policy
	lookup  func(r *http.Request, found []stickiness.Candidate) []stickiness.Candidate
	bind    func(b *stickiness.Binding)
	forward func(out *http.Request)
}

func (p faulty) Lookup(r *http.Request, found []stickiness.Candidate) []stickiness.Candidate {
	found = p.Policy.Lookup(r, found)
	if p.lookup != nil {
		found = p.lookup(r, found)
	}
	return found
}

func (p faulty) Bind(b *stickiness.Binding) {
	p.Policy.Bind(b)
	if p.bind != nil {
		p.bind(b)
	}
}

func (p faulty) Forward(out *http.Request, seen []stickiness.Candidate) {
	if p.forward != nil {
		p.forward(out)
	}
}

func TestTestPolicy_FindsFaults(t *testing.T) {
	type found = []stickiness.Candidate
	var calls atomic.Int64
	tests := map[string]struct {
		p    faulty
		want string
	}{
		"edits the request's header": {faulty{lookup: func(r *http.Request, f found) found { r.Header.Del("Cookie"); return f }}, "Lookup edits the request"},
		"edits the URL":              {faulty{lookup: func(r *http.Request, f found) found { r.URL.Path = "/"; return f }}, "Lookup edits the request"},
		"parses the form":            {faulty{lookup: func(r *http.Request, f found) found { _ = r.ParseForm(); return f }}, "Lookup edits the request"},
		"forgets what was found":     {faulty{lookup: func(_ *http.Request, f found) found { return nil }}, "changes the candidates"},
		"overwrites what was found":  {faulty{lookup: func(_ *http.Request, f found) found { f[0].Target = "x"; return f }}, "changes the candidates"},
		"unusable with a target": {faulty{lookup: func(_ *http.Request, f found) found {
			return append(f, stickiness.Candidate{Target: "x", Reason: stickiness.Forged})
		}}, `the target "x" and the reason "forged"`},
		"usable without a target": {faulty{lookup: func(_ *http.Request, f found) found { return append(f, stickiness.Candidate{}) }}, `the target "" and the reason "usable"`},
		"binds strangers":         {faulty{lookup: func(_ *http.Request, f found) found { return append(f, stickiness.Candidate{Target: "x"}) }}, "a client that was never bound"},
		"finds without end": {faulty{lookup: func(r *http.Request, f found) found {
			return append(f, make(found, len(r.Header["Cookie"]))...)
		}}, "candidates in one request"},
		"cannot decide": {faulty{lookup: func(_ *http.Request, f found) found {
			if calls.Add(1)%2 == 0 {
				f = append(f, stickiness.Candidate{Reason: stickiness.Forged})
			}
			return f
		}}, "for one request"},
		"panics": {faulty{lookup: func(r *http.Request, f found) found {
			if len(r.Header["Cookie"]) > 10 {
				panic("too many")
			}
			return f
		}}, "panic: too many"},
		"never binds":        {faulty{bind: func(b *stickiness.Binding) { b.Header.Del("Set-Cookie") }}, `a client that was served by "app-1" is bound to ""`},
		"frees":              {faulty{bind: func(b *stickiness.Binding) { b.Result = stickiness.Freed }}, "says freed"},
		"says it kept":       {faulty{bind: func(b *stickiness.Binding) { b.Result = stickiness.Kept }}, "writes to the header"},
		"says it bound":      {faulty{bind: func(b *stickiness.Binding) { b.Result = stickiness.Bound }}, `says "bound" for a bound client`},
		"edits the inbound":  {faulty{bind: func(b *stickiness.Binding) { b.Request.Host = "x" }}, "Bind edits the request"},
		"edits values":       {faulty{bind: editValues}, "in place"},
		"edits the binding":  {faulty{bind: func(b *stickiness.Binding) { b.Target = "x" }}, "more of the binding"},
		"writes on a detour": {faulty{bind: func(b *stickiness.Binding) { b.Header.Set("X-Detour", "1") }}, "on a detour"},
		"needs From":         {faulty{bind: func(b *stickiness.Binding) { _ = b.Seen[0] }}, "panic"},
		"frees the unseen": {faulty{bind: func(b *stickiness.Binding) {
			if len(b.Seen) == 0 && len(b.Request.Header["Cookie"]) > 0 {
				b.Header["Set-Cookie"] = []string{"AWSELB=; Path=/; Max-Age=0"}
				b.Result = stickiness.Freed
			}
		}}, "that another policy looked up, and moves"},
		"forwards in place":   {faulty{forward: func(out *http.Request) { clear(out.Header["Cookie"]) }}, "Forward edits the client's request"},
		"forwards to another": {faulty{forward: func(out *http.Request) { out.Host = "x" }}, "more than the header and the URL"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{})
			require.NoError(t, err)
			tt.p.Policy = p
			require.ErrorContains(t, stickinesstest.TestPolicy(tt.p, stickinesstest.Session{Response: login}), tt.want)
		})
	}
}

func editValues(b *stickiness.Binding) {
	for _, values := range b.Header {
		for i := range values {
			values[i] = ""
		}
	}
}

// stuck is a policy that always binds to its first target, or forgets a failover.
type stuck struct {
	stickiness.Policy
	result stickiness.Result
}

func (p stuck) Bind(b *stickiness.Binding) {
	if b.From == nil {
		p.Policy.Bind(b)
	} else {
		b.Result = p.result
	}
}

func TestTestPolicy_FindsAForgottenFailover(t *testing.T) {
	p, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{})
	require.NoError(t, err)
	require.NoError(t, stickinesstest.TestPolicy(stuck{p, stickiness.Kept}, stickinesstest.Session{}), "a policy may stay with its target")
	for _, result := range []stickiness.Result{stickiness.Bound, stickiness.Freed} {
		require.ErrorContains(t, stickinesstest.TestPolicy(stuck{p, result}, stickinesstest.Session{}), "after a failover")
	}
}
