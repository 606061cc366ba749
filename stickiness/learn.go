package stickiness

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/stickylb/stickylb/cookie"
)

const (
	defaultTTL     = 30 * time.Minute
	defaultTimeout = 100 * time.Millisecond

	// maxPlaces is how many values other than cookies may carry an ID: the Header and the sources.
	maxPlaces = 8
)

// LearnOptions configure a [Learn].
type LearnOptions struct {
	// Store remembers the sessions, for example a [MemoryStore]. It is required.
	Store Store

	// Cookie is the name of the application's session cookie. IDs are learned from its Set-Cookie
	// lines. If it ends in a star, such as "ASPSESSIONID*", it stands for all names that begin with
	// the text before the star, unless ExactName is set. Empty means none.
	Cookie    string
	ExactName bool

	// Header is a header that carries the session's ID, such as "Mcp-Session-Id". IDs are learned
	// from responses and looked up in requests. Empty means none. Cookie or Header is required.
	Header string

	// From are at most seven further places of requests that may carry the ID, such as a path
	// parameter for clients without cookies. They are read after the Cookie and the Header.
	From []Source

	// TTL is how long a session is remembered after its last request. Zero means 30 minutes. A
	// negative TTL is refused.
	TTL time.Duration

	// Timeout limits how long a request waits for the store, and then how long its response does.
	// Zero means 100 ms. A negative Timeout is refused.
	Timeout time.Duration

	// Scope keeps the sessions of different pools in one store apart.
	Scope string

	// Adopt binds a session that the store does not know to the target that answers its next
	// request, for example after a restart has emptied the store. Clients can then fill the store
	// with invented IDs. Without Adopt, an ID is learned only from a response.
	//
	// If different targets answer requests of one session at the same time, a [Claimer] binds the
	// session to one of them, and the next request goes there. The Result of the other responses is
	// [Kept].
	Adopt bool

	// Trace has functions that are called after calls of the store, for example to count them. Nil
	// means none.
	Trace *LearnTrace
}

// A Learn binds clients by the application's own session IDs. It reads the IDs from responses and
// remembers them with their targets in a [Store]. It adds nothing to responses, so it also serves
// clients that keep no cookies.
//
// A session is learned when a response sets its ID. It moves when another target answers for it.
// Each request extends it. The session is stored before the response goes out, so that the next
// request finds it.
//
// Learn is the only policy that may wait: within the Timeout and the request's context. If the
// store fails or is late, the request is not bound ([StoreFailed]) or the session is not learned
// ([Failed]). The store gets a hash of the ID, never the ID itself. Concurrent requests of one
// session share a lookup, unless the store is a [MemoryStore].
//
// A [Finder] can return the last known target of a session while the shared store cannot be asked.
// Learn uses this target, and sets [Candidate].Origin to [Remembered].
//
// A Learn implements [Policy] and is safe for concurrent use.
type Learn struct {
	store   Store
	finder  Finder  // the store, or nil if it is none
	claimer Claimer // the store, or nil if it is none
	local   bool    // the store does not wait, so no timer and no flight is needed
	flights flights
	trace   *LearnTrace
	cookie  appName
	header  string
	from    []Source
	ttl     time.Duration
	timeout time.Duration
	scope   string
	adopt   bool
}

// NewLearn returns a policy with these options. It returns an error without a Store, without both
// Cookie and Header, for invalid names and for negative times.
func NewLearn(o LearnOptions) (*Learn, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("stickiness: Learn: %w", err)
	}
	l := &Learn{
		store:   o.Store,
		trace:   o.Trace,
		cookie:  newAppName(o.Cookie, o.ExactName),
		header:  o.Header,
		from:    slices.Clone(o.From),
		ttl:     o.TTL,
		timeout: o.Timeout,
		scope:   o.Scope,
		adopt:   o.Adopt,
	}
	if l.ttl == 0 {
		l.ttl = defaultTTL
	}
	if l.timeout == 0 {
		l.timeout = defaultTimeout
	}
	l.finder, _ = o.Store.(Finder)
	l.claimer, _ = o.Store.(Claimer)
	_, l.local = o.Store.(*MemoryStore)
	return l, nil
}

func (o *LearnOptions) check() error {
	switch {
	case o.Store == nil:
		return errors.New("no Store")
	case isNil(o.Store):
		return fmt.Errorf("the Store is a nil %T", o.Store)
	case o.Cookie == "" && o.Header == "":
		return errors.New("no Cookie and no Header to learn from")
	case strings.ContainsFunc(o.Header, notToken):
		return fmt.Errorf("invalid Header %q", o.Header)
	case slices.ContainsFunc(o.From, func(s Source) bool { return s == nil }):
		return errors.New("nil source in From")
	case len(o.From) > maxPlaces-1: // one is for the Header
		return fmt.Errorf("%d sources in From, want at most %d", len(o.From), maxPlaces-1)
	case o.TTL < 0:
		return fmt.Errorf("negative TTL %v", o.TTL)
	case o.Timeout < 0:
		return fmt.Errorf("negative Timeout %v", o.Timeout)
	case o.Cookie != "":
		return checkAppName(newAppName(o.Cookie, o.ExactName).text)
	}
	return nil
}

// Lookup implements [Policy]. It asks the store for the IDs of the request, including those of the
// first 64 different cookies, until one is known. One Timeout covers all of them. A lower limit
// would let forged IDs hide a good one behind them, and would not reduce the load of the store: a
// client is free to send more requests.
func (l *Learn) Lookup(r *http.Request, found []Candidate) []Candidate {
	var few [4]string
	ids := l.idsOf(r, few[:0])
	if len(ids) == 0 {
		return found
	}
	ctx, cancel := l.wait(r)
	defer cancel()
	for _, id := range ids {
		key := l.key(id)
		f, err := l.find(ctx, key)
		if err != nil {
			return append(found, Candidate{Reason: StoreFailed})
		}
		if f.ok && f.target != "" {
			return append(found, Candidate{Target: f.target, Origin: f.from, State: key, Session: hashOf(key)})
		}
	}
	return found
}

// idsOf appends the session IDs of a request to ids.
func (l *Learn) idsOf(r *http.Request, ids []string) []string {
	if l.cookie.text != "" {
		for value := range l.cookie.values(r.Header) {
			if id := cookie.Unquote(value); isID(id) {
				ids = addValue(ids, id)
			}
		}
	}
	if l.header != "" {
		ids = addID(ids, r.Header.Get(l.header))
	}
	for _, source := range l.from {
		ids = addID(ids, source(r))
	}
	return ids
}

// addID appends a session's ID if it is valid and new. The limit for cookies does not apply: a
// request has one such header, and as many sources as the options.
func addID(ids []string, id string) []string {
	if !isID(id) || slices.Contains(ids, id) {
		return ids
	}
	return append(ids, id)
}

func isID(s string) bool { return s != "" && len(s) <= cookie.MaxSize }

// wait returns the context for calls of the store.
func (l *Learn) wait(r *http.Request) (context.Context, context.CancelFunc) {
	if l.local {
		return r.Context(), func() {}
	}
	return context.WithTimeout(r.Context(), l.timeout)
}

// key returns the store's key of an ID. It is a hash, because the ID is a secret that gives access
// to the session, and may be long.
func (l *Learn) key(id string) string {
	var buf [128]byte
	b := append(append(append(buf[:0], l.scope...), 0), id...)
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// Bind implements [Policy].
func (l *Learn) Bind(b *Binding) {
	b.Result = Kept
	if b.updates() {
		return
	}
	var known string // the key under which Lookup found the session
	same := false
	if b.From != nil {
		known, _ = b.From.State.(string)
		same = b.From.Target == b.Target
	}
	ids := l.idsSet(b)
	var keys []string
	for _, id := range ids {
		if key := l.key(id); key != known {
			keys = append(keys, key)
		}
	}
	switch {
	case b.Detour || same: // the known session keeps its target
	case known != "":
		keys = append(append(keys, known), l.alongside(b, known)...)
	case len(ids) == 0 && l.adopt:
		l.put(b, l.adopted(b), true)
		return
	}
	l.put(b, keys, false)
	if same && b.Result == Bound {
		b.Result = Renewed
	}
}

// alongside returns the keys of the request's other sessions that are bound to the same target. A
// client may send another one first with its next request.
func (l *Learn) alongside(b *Binding, known string) (keys []string) {
	ids := l.idsOf(b.Request, nil)
	if len(ids) == 1 {
		return nil
	}
	ctx, cancel := l.wait(b.Request)
	defer cancel()
	for _, id := range ids {
		key := l.key(id)
		if key == known {
			continue
		}
		if f, err := l.find(ctx, key); err == nil && f.ok && f.target == b.From.Target {
			keys = append(keys, key)
		}
	}
	return keys
}

// idsSet returns the session IDs that a response gives to its client.
func (l *Learn) idsSet(b *Binding) (ids []string) {
	if l.header != "" {
		ids = addID(ids, b.Header.Get(l.header))
	}
	if l.cookie.text == "" {
		return ids
	}
	groups, more := l.cookie.groups(b, func(string) bool { return true })
	for _, g := range groups {
		if !g.deletes {
			ids = addID(ids, cookie.Unquote(g.line.Value))
		}
	}
	if more {
		b.Notices |= ManyCookies
	}
	return ids
}

// adopted returns the keys of the request's sessions if the store knows none of them.
func (l *Learn) adopted(b *Binding) []string {
	if len(b.Seen) > 0 {
		return nil
	}
	ids := l.idsOf(b.Request, nil)
	keys := make([]string, len(ids))
	for i := range keys {
		keys[i] = l.key(ids[i])
	}
	return keys
}

// put binds the sessions, or claims them, and sets the result: Bound if a session is bound to the
// target, Kept if none is.
func (l *Learn) put(b *Binding, keys []string, claims bool) {
	if len(keys) == 0 {
		return
	}
	ctx, cancel := l.wait(b.Request)
	defer cancel()
	for _, key := range keys {
		winner, err := l.bind(ctx, key, b.Target, claims)
		if err != nil {
			b.Result = Failed
			return
		}
		if winner == b.Target {
			b.Result = Bound
		}
	}
}
