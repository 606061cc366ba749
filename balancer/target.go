package balancer

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// maxWeight bounds Target.Weight, so that shares stay exact in float64 arithmetic.
const maxWeight = 1 << 20

// A Target is one backend as the caller configures it: a plain value.
type Target struct {
	// ID names the target for good: it is what a session is bound to. Empty means the
	// URL's host and port, with the scheme's default port added, so that another backend
	// port is another target.
	ID string

	// URL is where the target listens. The schemes are http, https, ws (kept as http),
	// wss (kept as https), h2c (HTTP/2 in plain text, with prior knowledge) and tcp; a path is a prefix for the requests' paths. User
	// information, a query and a fragment are refused; a tcp URL needs a port and has no
	// path.
	// The pool keeps a copy.
	URL *url.URL

	// Weight is the target's share of new sessions relative to the others. Zero means 1;
	// below zero means no new sessions, while bound ones are still served. The largest is
	// 1<<20.
	Weight int

	// Zone names the failure domain or site that the target is in; see Config.OneZone.
	Zone string

	// Backup targets get new sessions only when no other target can have them.
	Backup bool

	// MaxRequests bounds the requests outstanding at a time, those of tunnels aside.
	// Zero means no bound; below zero is refused.
	MaxRequests int

	// MaxTunnels bounds the tunnels open at a time, WebSockets for example. Zero means no
	// bound; below zero is refused.
	MaxTunnels int
}

// equal reports whether two normalized targets are configured alike.
func (t *Target) equal(o *Target) bool {
	return t.sameEndpoint(o) && t.Weight == o.Weight && t.Zone == o.Zone && t.Backup == o.Backup &&
		t.MaxRequests == o.MaxRequests && t.MaxTunnels == o.MaxTunnels
}

// sameEndpoint reports whether two normalized targets are one member of a pool.
func (t *Target) sameEndpoint(o *Target) bool {
	return t.ID == o.ID && (t.URL == o.URL || *t.URL == *o.URL)
}

// normalizeAll returns the targets as the pool keeps them, or the first reason to refuse
// one.
func normalizeAll(targets []Target) ([]Target, error) {
	out := make([]Target, len(targets))
	seen := make(map[string]bool, len(targets))
	for i, t := range targets {
		n, err := normalize(t)
		if err != nil {
			return nil, fmt.Errorf("balancer: target %d (%q): %w", i, t.ID, err)
		}
		if seen[n.ID] {
			return nil, fmt.Errorf("balancer: target %d (%q): another target has this ID", i, n.ID)
		}
		seen[n.ID] = true
		out[i] = n
	}
	return out, nil
}

func normalize(t Target) (Target, error) {
	u, err := normalizeURL(t.URL)
	if err != nil {
		return Target{}, err
	}
	t.URL = u
	if t.ID == "" {
		t.ID = endpoint(u)
	}
	switch {
	case t.Weight == 0:
		t.Weight = 1
	case t.Weight < 0:
		t.Weight = -1
	case t.Weight > maxWeight:
		return Target{}, fmt.Errorf("weight %d is above %d", t.Weight, maxWeight)
	}
	if t.MaxRequests < 0 || t.MaxTunnels < 0 {
		return Target{}, errors.New("a limit is negative")
	}
	return t, nil
}

func normalizeURL(in *url.URL) (*url.URL, error) {
	if in == nil {
		return nil, errors.New("no URL")
	}
	u := *in
	switch u.Scheme = strings.ToLower(u.Scheme); u.Scheme {
	case "http", "https", "h2c", "tcp":
	case "ws":
		u.Scheme = "http"
	case "wss":
		u.Scheme = "https"
	default:
		return nil, badScheme(in)
	}
	switch {
	case u.Hostname() == "":
		return nil, noHost(in)
	case u.User != nil:
		return nil, errors.New("the URL has user information")
	case u.RawQuery != "" || u.ForceQuery:
		return nil, errors.New("the URL has a query")
	case u.Fragment != "":
		return nil, errors.New("the URL has a fragment")
	case u.Scheme == "tcp" && strings.Trim(u.Path, "/") != "":
		return nil, errors.New("a tcp URL has no path")
	}
	return &u, checkPort(&u)
}

// badScheme returns the error for a URL without a scheme that targets have. Where somebody
// left the scheme out, it says what to write. It repeats nothing that may be a password.
func badScheme(u *url.URL) error {
	var rest string // what belongs behind the scheme
	switch port, path, _ := strings.Cut(u.Opaque, "/"); {
	case u.Scheme == "" && u.Host != "": // //host
		rest = u.Host + u.EscapedPath()
	case u.Scheme == "" && u.Path == "":
		return errors.New("the URL is empty")
	case u.Scheme == "" && u.Path[0] != '/': // host
		rest = u.EscapedPath()
	case u.Scheme == "":
		return errors.New("the URL has neither a scheme nor a host")
	case isPort(port): // localhost:3000
		rest = u.Scheme + ":" + strings.TrimSuffix(port+"/"+path, "/")
	default:
		return fmt.Errorf("scheme %q is none of http, https, ws, wss, h2c, tcp", u.Scheme)
	}
	return fmt.Errorf("the URL has no scheme: write %q", "http://"+rest)
}

// noHost returns the error for a URL without a host. Where it lacks a slash, it says what to
// write.
func noHost(u *url.URL) error {
	rest := strings.TrimLeft(u.Opaque+u.EscapedPath(), "/")
	if u.Host != "" || rest == "" || strings.Contains(rest, "@") {
		return errors.New("the URL has no host")
	}
	return fmt.Errorf("the URL has no host: write %q", u.Scheme+"://"+rest)
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

func checkPort(u *url.URL) error {
	port := u.Port()
	if port == "" {
		if u.Scheme == "tcp" {
			return errors.New("a tcp URL needs a port")
		}
		return nil
	}
	if !isPort(port) {
		return fmt.Errorf("port %q is not within 1 to 65535", port)
	}
	return nil
}

// endpoint returns the URL's host and port, IPv6 in brackets.
func endpoint(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "h2c": "80", "https": "443"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}
