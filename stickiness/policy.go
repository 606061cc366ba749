package stickiness

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Policy finds the target that a request is bound to, and binds the client when a response goes
// out. Both methods are called concurrently and must not block. A policy that asks a store bounds
// its wait, and treats a slow store as "no session".
//
// [github.com/stickylb/stickylb/stickiness/stickinesstest.TestPolicy] checks that an implementation
// keeps this contract.
type Policy interface {
	// Lookup appends the candidates of the request to found and returns the result. The best
	// candidate comes first. Unusable candidates are included, with their Reason. Lookup only reads
	// r, does not change the elements of found, and keeps neither.
	Lookup(r *http.Request, found []Candidate) []Candidate

	// Bind is called once for the response that goes out, after the backend has answered with a
	// final status or 101. It writes the header fields that bind, renew or free the client to
	// b.Header, and sets b.Result. It keeps neither b nor what b refers to.
	Bind(b *Binding)
}

// A Forwarder is a [Policy] that also changes the request for the backend, for example to remove
// the balancer's own cookie. Forward is called before out is sent, with the candidates that Lookup
// found. It may change out's header map and URL, and nothing else. It replaces the slices of header
// values and does not edit them, because out may share them with the client's request. It does not
// keep out, what out refers to, or seen.
type Forwarder interface {
	Forward(out *http.Request, seen []Candidate)
}

// An Informer is a [Policy] that also changes 1xx responses, such as 103 (Early Hints), because
// clients store the cookies of those, too. Inform is called with the header of each 1xx response
// before it goes to the client. It may be called on any goroutine, while the attempt that the
// response comes from is under way; nothing is bound at that time. Inform removes the lines that
// Bind would remove or rewrite in the final header, and adds nothing. It does not keep h.
type Informer interface {
	Inform(h http.Header)
}

// A Reason says why a candidate cannot be used, or that it can.
type Reason uint8

const (
	// Usable: Candidate.Target names the target. This is the zero value.
	Usable Reason = iota
	// Malformed: the policy's codec cannot have written the value.
	Malformed
	// Forged: the value is not authentic.
	Forged
	// UnknownKey: the value was sealed under a key that the policy does not have.
	UnknownKey
	// OtherScope: the value was sealed for another scope, such as another listener, port or pool.
	OtherScope
	// Expired: the value is older than the policy allows, or further in the future than [Skew].
	Expired
	// NoAppCookie: the request has the balancer's cookie, but not the application's.
	NoAppCookie
	// StoreFailed: the session store returned an error or did not answer in time.
	StoreFailed
	// UnknownTarget: the codec's table has no target for the value.
	UnknownTarget
)

var reasons = [...]string{"usable", "malformed", "forged", "unknown key", "other scope", "expired", "no app cookie", "store failed", "unknown target"}

// String returns the reason in lower-case words.
func (r Reason) String() string {
	if int(r) < len(reasons) {
		return reasons[r]
	}
	return "reason " + strconv.Itoa(int(r))
}

// A Candidate is one binding that a request carries.
type Candidate struct {
	Target string // target ID; empty unless Reason is Usable
	Reason Reason
	State  any // belongs to the policy; passed from Lookup to Forward and Bind

	// Renew says that the candidate is usable and that its response should write the binding again:
	// the value is under an old key or of an old codec, its expiry is extended, or the CORS twin
	// disagrees.
	Renew bool

	// Issued is when the session was bound, in whole seconds. Zero means not known.
	Issued time.Time

	// Session identifies the session. It is the same on all instances, and does not change when the
	// session is bound again. It is a hash of the application's session ID, or a random number that
	// is sealed in the cookie. Zero means not known.
	Session uint64

	// Origin says where a [Learn] found the target. It is [Asked] for all other policies.
	Origin Origin

	// Notices are the notices of Lookup. Bind adds those of From to the Notices of the Binding.
	Notices Notices

	mark *mark // one for each [Switch] that found the candidate
}

// A Result says what [Policy].Bind did with a response.
type Result uint8

const (
	// Kept: nothing was written. This is the zero value.
	Kept Result = iota
	// Bound: the client was bound for the first time, or to another target than before.
	Bound
	// Renewed: the binding to the same target was written again.
	Renewed
	// Freed: a binding was deleted and none was written. It is the binding of the cookie that the
	// application deleted. A session that another cookie of the same name holds, for example one of
	// another path, goes on.
	Freed
	// Ignored: nothing was written, because the application's Set-Cookie line ends in a semicolon
	// (see [AppCookieOptions]).
	Ignored
	// Failed: the session store did not store the binding, so the client is not bound.
	Failed
)

var results = [...]string{"kept", "bound", "renewed", "freed", "ignored", "failed"}

// String returns the result in lower case.
func (r Result) String() string {
	if int(r) < len(results) {
		return results[r]
	}
	return "result " + strconv.Itoa(int(r))
}

// A Binding is the argument of [Policy].Bind: one response that is about to go out.
type Binding struct {
	Request *http.Request // the client's request as it came in; Bind only reads it
	Header  http.Header   // of the response that goes out; not nil; Bind reads and writes it
	Target  string        // ID of the target that answered
	TLS     bool          // the client's connection uses TLS, as the proxy sees or a trusted peer says
	Status  int           // of the response; zero: not known

	// From points to an element of Seen: the usable candidate of the target that answered, else the
	// first usable candidate that was tried. It is nil without such a candidate. If From.Target is
	// not Target, the response is a failover or a detour.
	From *Candidate
	Seen []Candidate // all that Lookup found

	// Detour says that another target served the request on purpose, and that the session should
	// return to the target of From. Bind keeps the binding, unless the application begins a new
	// session.
	Detour bool

	Result  Result  // set by Bind, for traces
	Notices Notices // Bind adds to them, for the operator
}

// date returns the time of the response's Date header, or the zero time if it has no valid one.
func (b *Binding) date() time.Time {
	date, _ := http.ParseTime(b.Header.Get("Date"))
	return date
}

// updates reports whether the response only updates what the client has stored (RFC 9111, section
// 3.2) and has no Cache-Control of its own. Such a response must not bind: the "private" that comes
// with a cookie would replace a stored "max-age", and the client would ask again every time.
//
// A 304 is such a response. So is a 206 that answers an If-Range, because it is combined with the
// stored response in the same way (section 3.4). HEAD responses and other 206 responses are
// different: they carry the same Cache-Control as the whole response.
func (b *Binding) updates() bool {
	switch {
	case b.Status == http.StatusNotModified:
	case b.Status == http.StatusPartialContent && b.Request.Header.Get("If-Range") != "":
	default:
		return false
	}
	for _, line := range b.Header["Cache-Control"] {
		if strings.Trim(line, " \t,") != "" {
			return false
		}
	}
	return true
}
