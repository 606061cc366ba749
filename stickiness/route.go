package stickiness

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/stickylb/stickylb/cookie"
)

// RouteOptions configure a [Route].
type RouteOptions struct {
	// Cookie is the name of the application's session cookie, such as "JSESSIONID", and
	// PathParam the path parameter in which clients without cookies have the session's ID,
	// such as "jsessionid". At least one is needed; the cookie goes before the parameter.
	Cookie, PathParam string

	// Codec turns a route into a target's ID, such as a [cookie.InsecureTable]. It is needed.
	Codec cookie.Codec
}

// A Route binds a request to the target whose route is behind the dot of the session's ID,
// as in "0123ABCD.jvm1". Java application servers put it there (jvmRoute) for the
// balancers in front of them. The policy writes nothing: the application that answers
// changes the ID when it takes a session over.
//
// The route is no secret, and nothing protects it: clients can choose their target.
//
// It implements [Policy], is immutable and safe for concurrent use.
type Route struct {
	ring
	cookie string
	param  string
}

// NewRoute returns a policy with these options. It refuses options without a place to look
// at, and without a Codec.
func NewRoute(o RouteOptions) (*Route, error) {
	if o.Cookie == "" && o.PathParam == "" {
		return nil, errors.New("stickiness: Route: want a Cookie or a PathParam")
	}
	if err := checkCodec(o.Codec); err != nil {
		return nil, fmt.Errorf("stickiness: Route: %w", err)
	}
	return &Route{ring{codec: o.Codec}, o.Cookie, o.PathParam}, nil
}

// Lookup implements [Policy]. It looks at the first 64 routes in cookies of the name, and
// then at the first path parameter. A session ID without a route is none.
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
