package wsproxy_test

import (
	"net/http"
	"net/url"

	"github.com/stickylb/stickylb/balancer"
)

// roundTripper is a transport without a network.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func target(id, rawURL string) balancer.Target {
	u, err := url.Parse(rawURL)
	if err != nil {
		panic(err)
	}
	return balancer.Target{ID: id, URL: u}
}
