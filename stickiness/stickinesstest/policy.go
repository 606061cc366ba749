// Package stickinesstest checks that implementations of the interfaces of package stickiness keep
// their contracts. It is for tests.
//
//	if err := stickinesstest.TestPolicy(policy, stickinesstest.Session{}); err != nil {
//		t.Fatal(err)
//	}
//
// [TestPolicy] checks a [stickiness.Policy], [TestStore] a [stickiness.Store]. Nil functions and
// empty fields of a [Session] have the defaults that their documentation names.
package stickinesstest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/stickylb/stickylb/stickiness"
)

// A Session describes the client and the application to [TestPolicy]. The zero value suits a policy
// that binds every client by a cookie.
type Session struct {
	// Request returns a new request without cookies, from a client that wants the target, or from a
	// new client if target is empty. Set it for a policy that reads the target from a header or
	// from the URL. Nil means GET http://www.example.com/app/page.
	Request func(target string) *http.Request

	// Response returns the header of a response by which the application begins a session, a
	// different session each time. Nil means an empty header.
	Response func() http.Header

	// Carry adds to a request what its client knows from an earlier response, except for cookies:
	// these are sent as browsers do, without regard to Secure and SameSite. Nil means nothing.
	Carry func(r *http.Request, response http.Header)

	// Targets are the IDs of three targets that the policy can bind to. Empty means "app-1",
	// "app-2" and "app-3".
	Targets [3]string
}

// TestPolicy tests sessions with p, and returns all violations of the contract of
// [stickiness.Policy], and of [stickiness.Forwarder] if p is one, joined into one error:
//
//   - Lookup only appends, only reads the request, and returns the same for the same request. A
//     client that was never bound has no usable candidate. A candidate has a target if and only if
//     it is usable.
//   - Bind writes only to the header and to Result. It replaces header values and edits none in
//     place. If the result is Kept or Ignored, it wrote nothing.
//   - The next Lookup finds what Bind reported: a new, renewed, deleted or unchanged binding. A
//     client stays bound to the target that answered it, and a detour changes nothing.
//   - A client that quotes its cookies and adds "$Version" and "$Path" (RFC 2109) is bound like any
//     other.
//   - The application may delete other cookies of its cookie's name: one of another path, of a
//     Domain instead of the host, or of another partition. Such a line does not end a session that
//     the response begins or that goes on. If the policy follows the application's cookie, a cookie
//     without a Path has the path of the request's directory (RFC 6265bis, section 5.7).
//   - If a request has two cookies of the policy under one name, the one that was issued last wins,
//     in either order. Nine unusable values in front do not hide a usable one. The older cookie and
//     the unusable values do not make Bind write where it would have kept.
//   - Bind may get a request that another policy has looked up (see [stickiness.Switch]): without
//     candidates, although it may carry cookies of this policy. Its client keeps its target, or is
//     bound to the target that answered.
//   - Forward changes only the header and the URL of its own request.
//   - No cookie makes a method panic, and a thousand cookies make less than a hundred candidates.
//   - All methods can be called concurrently, as far as the race detector can tell, and return when
//     the request's context has ended.
//
// Checks that do not apply are left out: those of the application's lines if Response does not have
// exactly one Set-Cookie line; those of several cookies if the policy writes none, if its
// candidates have no issue time, or if it accepts any value.
//
// TestPolicy takes some milliseconds. Run it with -race.
func TestPolicy(p stickiness.Policy, s Session) error {
	c := &checker{policy: p, session: s.withDefaults()}
	for _, check := range []func(){c.newClient, c.boundClient, c.failover, c.detour, c.unseen, c.severalLines, c.directory, c.twoCookies, c.unusable, c.hostile, c.concurrent, c.ended} {
		c.guard(check)
	}
	return errors.Join(c.errs...)
}

func (s Session) withDefaults() Session {
	if s.Request == nil {
		s.Request = func(string) *http.Request {
			r, _ := http.NewRequest(http.MethodGet, "http://www.example.com/app/page", nil) // cannot fail
			return r
		}
	}
	if s.Response == nil {
		s.Response = func() http.Header { return http.Header{} }
	}
	if s.Carry == nil {
		s.Carry = func(*http.Request, http.Header) {}
	}
	if s.Targets == [3]string{} {
		s.Targets = [3]string{"app-1", "app-2", "app-3"}
	}
	return s
}

// A checker tests the sessions and collects the faults.
type checker struct {
	policy  stickiness.Policy
	session Session

	mu   sync.Mutex
	errs []error
}

func (c *checker) errorf(format string, args ...any) {
	err := fmt.Errorf("stickinesstest: "+format, args...)
	c.mu.Lock()
	defer c.mu.Unlock()
	same := func(e error) bool { return e.Error() == err.Error() }
	if !slices.ContainsFunc(c.errs, same) {
		c.errs = append(c.errs, err)
	}
}

// patience bounds the time of one check. On an idle machine a check takes some milliseconds.
const patience = time.Minute

// guard runs a check. It reports a panic, and a check that does not end in time, as faults.
func (c *checker) guard(check func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil {
				c.errorf("panic: %v", v)
			}
		}()
		check()
	}()
	select {
	case <-done:
	case <-time.After(patience):
		c.errorf("the policy blocks")
	}
}

func (c *checker) newClient() {
	cl := &client{checker: c}
	for _, found := range c.lookup(cl.request("")) {
		if found.Reason == stickiness.Usable {
			c.errorf("a client that was never bound has a usable candidate for %q", found.Target)
		}
	}
}

func (c *checker) boundClient() {
	a := c.session.Targets[0]
	cl := &client{checker: c}
	b := cl.visit(a, a, c.session.Response(), false)
	if b.Result == stickiness.Freed {
		c.errorf("Bind says freed for a response that begins a session")
	}
	if got := cl.boundTo(a); got != a {
		c.errorf("a client that was served by %q is bound to %q", a, got)
		return
	}
	if got := cl.quoting(a); got != a {
		c.errorf("a client of RFC 2109 that was served by %q is bound to %q", a, got)
	}
	b = cl.visit(a, a, http.Header{}, false)
	if b.Result == stickiness.Bound || b.Result == stickiness.Freed {
		c.errorf("Bind says %q for a bound client that its own target served", b.Result)
	}
	if got := cl.boundTo(a); got != a {
		c.errorf("a second response of %q leaves its client bound to %q", a, got)
	}
}

func (c *checker) failover() {
	a, b := c.session.Targets[0], c.session.Targets[1]
	cl := &client{checker: c}
	cl.visit(a, a, c.session.Response(), false)
	before := cl.boundTo(a)
	var want string
	switch result := cl.visit(a, b, http.Header{}, false).Result; result {
	case stickiness.Bound:
		want = b
	case stickiness.Freed:
	default:
		want = before
	}
	if got := cl.boundTo(a); got != want {
		c.errorf("after a failover from %q to %q the client is bound to %q, want %q", a, b, got, want)
	}
}

func (c *checker) detour() {
	a, b, d := c.session.Targets[0], c.session.Targets[1], c.session.Targets[2]
	cl := &client{checker: c}
	cl.visit(a, a, c.session.Response(), false)
	before := cl.boundTo(a)
	if got := cl.visit(a, b, http.Header{}, true); got.Result != stickiness.Kept || len(got.Header) > 0 {
		c.errorf("Bind says %q and writes %v on a detour", got.Result, got.Header)
	}
	cl.visit(a, d, http.Header{}, true)
	if got := cl.boundTo(a); got != before {
		c.errorf("a detour moves the client from %q to %q", before, got)
	}
}

// unseen has Bind called without candidates for a client that has the policy's cookies.
func (c *checker) unseen() {
	a, b := c.session.Targets[0], c.session.Targets[1]
	for _, detour := range []bool{false, true} {
		cl := &client{checker: c}
		cl.visit(a, a, c.session.Response(), false)
		before := cl.boundTo(a)
		r := cl.request(a)
		binding := &stickiness.Binding{Request: r, Header: http.Header{}, Target: b, Detour: detour}
		c.bind(binding)
		cl.receive(r, binding.Header, nil)
		if got := cl.boundTo(a); got != before && (got != b || binding.Result != stickiness.Bound) {
			c.errorf("Bind says %q for a request that another policy looked up, and moves the client from %q to %q", binding.Result, before, got)
		}
	}
}

// hostile sends broken variants of the client's cookies, and responses with broken lines.
func (c *checker) hostile() {
	a := c.session.Targets[0]
	cl := &client{checker: c}
	cl.visit(a, a, c.session.Response(), false)
	for _, own := range cl.jar.Send(cl.request(a)) {
		value := own.Value
		half := value[:len(value)/2]
		for _, v := range []string{"", half, value + half, value + "\x00", `"` + value + `"`, "=", strings.Repeat("A", 1<<16), strings.Repeat("=", 1000), "\xff\xfe"} {
			c.lookup(withCookies(cl.request(a), own.Name+"="+v))
		}
		many := make([]string, 0, 1000)
		for i := range 1000 {
			many = append(many, fmt.Sprintf("%s=%s%d", own.Name, half, i))
		}
		c.lookup(withCookies(cl.request(a), strings.Join(many, "; ")))
		c.lookup(withCookies(cl.request(a), many...))
	}
	for _, line := range []string{"", ";", "=", "=;", "a=\x00", strings.Repeat("x", 1<<16), `a="; Max-Age=`, "a=b; Expires=; Max-Age=99999999999999999999"} {
		h := http.Header{"Set-Cookie": {line}, "Cache-Control": {line}}
		c.bind(&stickiness.Binding{Request: cl.request(a), Header: h, Target: a})
	}
}

func (c *checker) concurrent() {
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			c.guard(func() {
				target := c.session.Targets[i%3]
				for range 10 {
					cl := &client{checker: c}
					cl.visit(target, target, c.session.Response(), false)
					if got := cl.boundTo(target); got != target {
						c.errorf("one of several concurrent clients is bound to %q, want %q", got, target)
					}
				}
			})
		})
	}
	wg.Wait()
}

// ended tests a session whose requests have a context that has ended.
func (c *checker) ended() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	a := c.session.Targets[0]
	cl := &client{checker: c, ctx: ctx}
	cl.visit(a, a, c.session.Response(), false)
	cl.visit(a, a, http.Header{}, false)
}

// lookup calls Lookup and checks what must hold for every call.
func (c *checker) lookup(r *http.Request) []stickiness.Candidate {
	before := snapshot(r)
	earlier := stickiness.Candidate{Target: "earlier", Renew: true, State: "the caller's"}
	found := c.policy.Lookup(r, append(make([]stickiness.Candidate, 0, 32), earlier))
	if !before.equal(r) {
		c.errorf("Lookup edits the request")
	}
	if len(found) == 0 || found[0] != earlier {
		c.errorf("Lookup changes the candidates that it was given")
		return nil
	}
	found = found[1:]
	for _, f := range found {
		if (f.Reason == stickiness.Usable) != (f.Target != "") {
			c.errorf("a candidate has the target %q and the reason %q", f.Target, f.Reason)
		}
	}
	if len(found) >= 100 {
		c.errorf("%d candidates in one request", len(found))
	}
	if again := c.policy.Lookup(r, nil); !slices.EqualFunc(found, again, sameCandidate) {
		c.errorf("Lookup returns %v, and then %v, for one request", found, again)
	}
	c.forward(r, found)
	return found
}

func sameCandidate(a, b stickiness.Candidate) bool {
	return a.Target == b.Target && a.Reason == b.Reason && a.Renew == b.Renew
}

// forward calls Forward with a request that shares its header values with the client's request.
func (c *checker) forward(r *http.Request, found []stickiness.Candidate) {
	f, ok := c.policy.(stickiness.Forwarder)
	if !ok {
		return
	}
	before := snapshot(r)
	out := r.WithContext(r.Context())
	out.Header = maps.Clone(r.Header)
	url := *r.URL
	out.URL = &url
	f.Forward(out, found)
	if !before.equal(r) {
		c.errorf("Forward edits the client's request")
	}
	if out.Method != r.Method || out.Host != r.Host || out.Body != r.Body {
		c.errorf("Forward edits more than the header and the URL")
	}
}

// bind calls Bind and checks what must hold for every call.
func (c *checker) bind(b *stickiness.Binding) {
	request, binding := snapshot(b.Request), *b
	values, header := maps.Clone(b.Header), b.Header.Clone()
	c.policy.Bind(b)
	if !request.equal(b.Request) {
		c.errorf("Bind edits the request")
	}
	for key, v := range values { // the slices that were there before
		if !slices.Equal(v, header[key]) {
			c.errorf("Bind edits the values of %s in place", key)
		}
	}
	written := !reflect.DeepEqual(b.Header, header)
	if written && (b.Result == stickiness.Kept || b.Result == stickiness.Ignored) {
		c.errorf("Bind says %q and writes to the header", b.Result)
	}
	if b.Target != binding.Target || b.From != binding.From || len(b.Seen) != len(binding.Seen) || b.Detour != binding.Detour || b.TLS != binding.TLS {
		c.errorf("Bind edits more of the binding than Header and Result")
	}
}
