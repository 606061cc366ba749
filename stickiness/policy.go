package stickiness

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A Policy finds the target that a request is bound to, and binds the client when a
// response goes out. Both methods are called concurrently and must not block (a policy
// that asks a store bounds its wait and treats a slow store as "no session").
//
// [github.com/stickylb/stickylb/stickiness/stickinesstest.TestPolicy] holds any
// implementation to this contract.
type Policy interface {
	// Lookup appends what the request says about its binding to found and returns the
	// result: the best candidate first, unusable ones with their reason among them. It
	// only reads r, leaves what found holds alone, and keeps neither.
	Lookup(r *http.Request, found []Candidate) []Candidate

	// Bind is called once for the response that goes out, after its backend has answered
	// with a final status, 101 included. It writes to b.Header what binds, renews or
	// frees the client, and sets b.Result. It keeps neither b nor what b refers to.
	Bind(b *Binding)
}

// A Forwarder is a [Policy] that also changes what the backend sees, such as dropping the
// balancer's own cookie. Forward is called before out is sent, with the candidates that
// Lookup found. It edits out's own header map and URL only, and replaces header values
// instead of editing their slices, which out may share with the client's request. It does
// not keep out, what out refers to, or seen.
type Forwarder interface {
	Forward(out *http.Request, seen []Candidate)
}

// An Informer is a [Policy] with a say in 1xx responses, such as a 103 (Early Hints): clients
// keep the cookies of those as well. Inform is called with the header of each of them before
// it goes to the client, on any goroutine and while the attempt that it came from is under
// way: nothing is bound yet. It removes what Bind would remove or rewrite in the final header,
// and adds nothing. It does not keep h.
type Informer interface {
	Inform(h http.Header)
}

// A Reason says whether a candidate may be used, and if not, why.
type Reason uint8

const (
	// Usable: Candidate.Target names the target. The zero value.
	Usable Reason = iota
	// Malformed: not a value that the policy's codec can have written.
	Malformed
	// Forged: the value's authentication failed.
	Forged
	// UnknownKey: sealed under a key that the policy does not have.
	UnknownKey
	// OtherScope: sealed for another listener, port or pool.
	OtherScope
	// Expired: older than the policy allows, or from further in the future than [Skew].
	Expired
	// NoAppCookie: the balancer's cookie came without the application's.
	NoAppCookie
	// StoreFailed: the session store gave an error or did not answer in time.
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

// A Candidate is one thing that a request says about the target it is bound to.
type Candidate struct {
	Target string // target ID; empty unless Reason is Usable
	Reason Reason
	State  any // the policy's own, carried from Lookup to Forward and Bind

	// Renew says that it is usable and that the response is to write it again: because of an old
	// key, another codec, sliding renewal, or a twin that disagrees.
	Renew bool

	// Issued is when the binding was made, in whole seconds. Zero: not known.
	Issued time.Time

	// Session identifies the session, on all instances and also after it is bound anew. It is a
	// hash of the application's session ID, or a number that is sealed in the cookie. Zero means
	// not known.
	Session uint64

	// Notices are what Lookup has noticed. Bind adds those of From to the binding's.
	Notices Notices

	mark *mark // of each [Switch] that it came through
}

// A Result says what [Policy].Bind did with a response.
type Result uint8

const (
	// Kept: nothing was written. The zero value.
	Kept Result = iota
	// Bound: the client is bound for the first time, or to another target than before.
	Bound
	// Renewed: the binding to the same target was written again.
	Renewed
	// Freed: a binding was deleted, and none written. It is that of the cookie which the
	// application deleted: a session that another cookie of the same name holds, of another
	// path, say, goes on.
	Freed
	// Ignored: nothing was written because the application's Set-Cookie line ended in a
	// semicolon (see [AppCookieOptions]).
	Ignored
	// Failed: the session store did not take the binding, so the client is not bound.
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

// A Binding is what [Policy].Bind works on: one response that is about to go out.
type Binding struct {
	Request *http.Request // the client's request as it came in; read only
	Header  http.Header   // of the response that won; read and written; not nil
	Target  string        // ID of the target that answered
	TLS     bool          // the client's connection is TLS, as the proxy sees it or a trusted peer says
	Status  int           // of the response; 0: not known

	// From points into Seen: the usable candidate whose target answered, else the first
	// usable one that was tried, else nil. From.Target != Target is a failover, or a
	// detour.
	From *Candidate
	Seen []Candidate // all that Lookup found

	// Detour: the request was served elsewhere on purpose and the session shall come back
	// to the target of From. The binding is kept unless the application begins a new session.
	Detour bool

	Result  Result  // set by Bind, for the trace
	Notices Notices // added to by Bind, for the operator
}

// date returns what the response's Date says, the zero time if it cannot be read.
func (b *Binding) date() time.Time {
	date, _ := http.ParseTime(b.Header.Get("Date"))
	return date
}

// updates reports whether the response only updates what the client has stored (RFC 9111,
// section 3.2) and leaves its Cache-Control as it is. It binds nobody: one of ours would
// replace a stored "max-age", and the client would ask again for ever. A 206 that answers
// an If-Range is combined with what is stored in the same way (section 3.4). A HEAD and any
// other 206 have the Cache-Control of the whole response, or it has none.
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
