package stickiness

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/stickylb/stickylb/cookie"
)

// RouteOptions configure a [Route].
type RouteOptions struct {
	// Cookie is the name of the application's session cookie, such as "JSESSIONID". PathParam is
	// the path parameter that carries the session's ID for clients without cookies, such as
	// "jsessionid". At least one of them is required. The cookie's candidates come first.
	Cookie, PathParam string

	// Codec converts a route to a target's ID, such as a [cookie.InsecureTable]. It is required.
	Codec cookie.Codec
}

// A Route binds a request to the target whose route follows the dot of the session's ID, as in
// "0123ABCD.jvm1". Java application servers write it for balancers (jvmRoute). The policy writes
// nothing: an application that takes over a session changes the session's ID itself.
//
// The route is not secret and not authenticated: clients can choose their target.
//
// A Route implements [Policy], is immutable and safe for concurrent use.
type Route struct {
	ring
	cookie string
	param  string
}

// NewRoute returns a policy with these options. It returns an error without a Cookie and a
// PathParam, and without a Codec.
func NewRoute(o RouteOptions) (*Route, error) {
	if o.Cookie == "" && o.PathParam == "" {
		return nil, errors.New("stickiness: Route: no Cookie and no PathParam")
	}
	if err := checkCodec(o.Codec); err != nil {
		return nil, fmt.Errorf("stickiness: Route: %w", err)
	}
	return &Route{ring{codec: o.Codec}, o.Cookie, o.PathParam}, nil
}

// Lookup implements [Policy]. It reads at most 64 different routes: those of the cookies, and then
// that of the first path parameter. It ignores session IDs without a route.
func (p *Route) Lookup(r *http.Request, found []Candidate) []Candidate {
	var few [4]claim
	routes := few[:0]
	if p.cookie != "" {
		for id := range cookie.Values(r.Header, p.cookie) {
			if session, route, ok := cookie.CutRoute(cookie.Unquote(id)); ok {
				routes = addClaim(routes, route, session)
			}
		}
	}
	if p.param != "" {
		id, _ := cookie.PathParam(r.URL.EscapedPath(), p.param)
		if session, route, ok := cookie.CutRoute(id); ok {
			routes = addClaim(routes, route, session)
		}
	}
	return p.candidates(routes, found)
}

// Bind implements [Policy]. It does nothing.
func (p *Route) Bind(b *Binding) { b.Result = Kept }
