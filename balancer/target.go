package balancer

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// maxWeight bounds Target.Weight, so that shares stay exact in float64 arithmetic.
const maxWeight = 1 << 20

// A Target is one backend as the caller configures it: a plain value. Targets cannot be compared
// with ==, because they have Labels: use [Target.SameEndpoint], or compare what matters.
type Target struct {
	// ID identifies the target, and is what a session is bound to. It is required if URL is nil.
	// Otherwise, empty means the URL's host and port in the spelling that the pool keeps, with the
	// scheme's default port added, so that another backend port is another target. Addr takes no
	// part in it: targets that share a URL need IDs.
	ID string

	// URL is where the target listens. Nil means that the target is not reached over a network, for
	// example because it is a part of this process. Such a target is for code that finds it by its
	// ID, such as the handler in a wsproxy.Sticky. A wsproxy.Proxy, a stream.Server and the checks
	// of package health that use the network refuse it. The schemes are http, https, ws (kept as
	// http), wss (kept as https), h2c (HTTP/2 in plain text, with prior knowledge) and tcp; a path
	// is a prefix for the requests' paths. User information, a query and a fragment are refused; a
	// tcp URL needs a port and has no path.
	//
	// The pool keeps a copy in one spelling (RFC 3986 section 6.2.2), and requests use that
	// spelling. The host is in lower case. An internationalised name is spelled as in DNS, an IPv6
	// address as in RFC 5952, and an IPv4 address that is mapped into IPv6 as IPv4. There is no
	// default port and no slash at the end of the path. Escapes are in capitals, and only where
	// they are needed. A dot at the end of the host, "." and ".." in the path, and several slashes
	// at its end are kept, because they make another URL.
	URL *url.URL

	// Addr is where to connect, if that is not the URL's host and port: a host with a port,
	// or "unix:" and the absolute path of a Unix socket. On Linux a path that begins with @
	// names an abstract socket. It is used for requests, tunnels and checks; the URL still
	// says the protocol, the path and, if ServerName is empty, the certificate's name.
	Addr string

	// ServerName is the name or the IP address that the target's certificate must have. A
	// name is also sent as Server Name Indication. Empty means the ServerName of the
	// caller's tls.Config, and if that is empty, the URL's host. It is refused with the
	// schemes http and h2c, which have no TLS. For a tcp target the code that connects
	// decides whether to use TLS.
	ServerName string

	// Certificate is the client certificate for connections to the target. It replaces
	// those of the caller's tls.Config; nil leaves them as they are. It is refused with the
	// schemes http and h2c. The pool keeps a copy; the key and the octets of the chain must
	// not be modified.
	Certificate *tls.Certificate

	// Weight is the target's share of new sessions relative to the others. Zero means 1;
	// below zero means no new sessions, while bound ones are still served. The largest is
	// 1<<20.
	Weight int

	// Zone names the failure domain or site that the target is in; see Config.OneZone.
	Zone string

	// ForZones are the zones in which the target counts as local, see Config.OneZone. Empty means
	// only Zone. If it is not empty, Zone does not count. The pool keeps a copy. An empty name is
	// refused.
	ForZones []string

	// Labels hold anything else that a program wants to know about the target, for example its
	// version. Pickers select members by them, see [Snapshot.Where] and [Split]; the pool itself
	// reads none. An empty name is refused. The pool keeps a copy, and other labels do not make
	// another member.
	Labels map[string]string

	// Backup targets get new sessions only when no other target can take them.
	Backup bool

	// MaxRequests limits the requests that are outstanding at a time. Tunnels do not count. Zero
	// means no bound; below zero is refused.
	MaxRequests int

	// MaxTunnels limits the tunnels, such as WebSockets, that are open at a time. Zero means no
	// bound; below zero is refused.
	MaxTunnels int
}

// equal reports whether two normalized targets are configured alike.
func (t *Target) equal(o *Target) bool {
	return t.SameEndpoint(o) && t.Weight == o.Weight && t.Zone == o.Zone && t.Backup == o.Backup &&
		t.MaxRequests == o.MaxRequests && t.MaxTunnels == o.MaxTunnels && t.sameTLS(o) &&
		slices.Equal(t.ForZones, o.ForZones) && maps.Equal(t.Labels, o.Labels)
}

// isLocal reports whether the target counts as local in a zone.
func (t *Target) isLocal(zone string) bool {
	if len(t.ForZones) > 0 {
		return slices.Contains(t.ForZones, zone)
	}
	return t.Zone == zone
}

// sameTLS reports whether TLSConfig returns equal configurations for two targets of one endpoint.
func (t *Target) sameTLS(o *Target) bool {
	return t.ServerName == o.ServerName && sameCertificate(t.Certificate, o.Certificate)
}

// SameEndpoint reports whether two targets are one member of a pool: they have the same ID, URL and
// Addr, and their certificates must have the same name. Both are as a pool keeps them; see
// [Normalize].
func (t *Target) SameEndpoint(o *Target) bool {
	return t.ID == o.ID && t.url() == o.url() && (t.URL == nil) == (o.URL == nil) && t.Addr == o.Addr &&
		t.serverName() == o.serverName()
}

// url returns the URL. It is empty if there is none.
func (t *Target) url() url.URL {
	if t.URL == nil {
		return url.URL{}
	}
	return *t.URL
}

// Normalize returns the targets in the form that a [Pool] keeps, with their IDs and defaults
// filled in. The error is the one that [New] and [Pool.Update] return for targets that they refuse.
func Normalize(targets ...Target) ([]Target, error) {
	out := make([]Target, len(targets))
	seen := make(map[string]int, len(targets))
	for i, t := range targets {
		n, err := normalize(t)
		if err != nil {
			return nil, fmt.Errorf("balancer: target %d (%q): %w", i, t.ID, err)
		}
		if j, ok := seen[n.ID]; ok {
			return nil, fmt.Errorf("balancer: target %d (%q): %w", i, n.ID, errSameID(&t, &targets[j]))
		}
		seen[n.ID] = i
		out[i] = n
	}
	return out, nil
}

// errSameID returns the error for two targets of one ID.
func errSameID(a, b *Target) error {
	if a.ID == "" && b.ID == "" && a.Addr != b.Addr {
		return errors.New("another target has this ID: targets with one URL and several Addrs need IDs")
	}
	return errors.New("another target has this ID")
}

func normalize(t Target) (Target, error) {
	err := t.normalizeEndpoint()
	if err != nil {
		return Target{}, err
	}
	if t.ID == "" {
		t.ID = hostPort(t.URL)
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
	if _, ok := t.Labels[""]; ok {
		return Target{}, errors.New("a label has no name")
	}
	if slices.Contains(t.ForZones, "") {
		return Target{}, errors.New("a zone in ForZones has no name")
	}
	t.Labels, t.ForZones = copyLabels(t.Labels), slices.Clone(t.ForZones)
	if len(t.ForZones) == 0 {
		t.ForZones = nil
	}
	return t, nil
}

// copyLabels returns a copy of labels, nil if there are none.
func copyLabels(labels map[string]string) map[string]string {
	if len(labels) == 0 {
		return nil
	}
	return maps.Clone(labels)
}

// normalizeEndpoint gives the endpoint and the client certificate the form that the pool keeps.
func (t *Target) normalizeEndpoint() (err error) {
	if t.URL == nil {
		return t.checkWithoutURL()
	}
	if t.URL, err = normalizeURL(t.URL); err != nil {
		return err
	}
	if t.Addr, err = normalizeAddr(t.Addr, t.URL); err != nil {
		return err
	}
	if t.ServerName, err = normalizeServerName(t.ServerName); err != nil {
		return err
	}
	c := t.Certificate
	switch plain := t.URL.Scheme == "http" || t.URL.Scheme == "h2c"; {
	case plain && t.ServerName != "":
		return fmt.Errorf("a ServerName needs TLS, which the scheme %s has not", t.URL.Scheme)
	case plain && c != nil:
		return fmt.Errorf("a Certificate needs TLS, which the scheme %s has not", t.URL.Scheme)
	case c != nil && (len(c.Certificate) == 0 || c.PrivateKey == nil):
		return errors.New("the Certificate lacks its chain or its key")
	}
	t.Certificate = copyCertificate(c)
	return nil
}

// checkWithoutURL returns an error if a target without a URL has no ID, or says how it is reached.
func (t *Target) checkWithoutURL() error {
	switch {
	case t.ID == "":
		return errors.New("neither a URL nor an ID")
	case t.Addr != "":
		return errors.New("an Addr needs a URL, which says the protocol")
	case t.ServerName != "" || t.Certificate != nil:
		return errors.New("a ServerName and a Certificate need a URL")
	}
	return nil
}

func normalizeURL(in *url.URL) (*url.URL, error) {
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
	case u.Opaque != "":
		return nil, errors.New("the URL is opaque")
	case u.User != nil:
		return nil, errors.New("the URL has user information")
	case u.RawQuery != "" || u.ForceQuery:
		return nil, errors.New("the URL has a query")
	case u.Fragment != "":
		return nil, errors.New("the URL has a fragment")
	case u.Scheme == "tcp" && strings.Trim(u.Path, "/") != "":
		return nil, errors.New("a tcp URL has no path")
	}
	return oneSpelling(&u)
}

// oneSpelling returns the scheme, host and path of u, spelled as the pool keeps them.
func oneSpelling(u *url.URL) (*url.URL, error) {
	if u.Scheme == "tcp" && u.Port() == "" {
		return nil, errors.New("a tcp URL needs a port")
	}
	host, err := normalizeAuthority(u)
	if err != nil {
		return nil, err
	}
	out := &url.URL{Scheme: u.Scheme, Host: host}
	if u.Scheme == "tcp" {
		return out, nil
	}
	escaped := normalizePath(u)
	if out.Path, err = url.PathUnescape(escaped); err == nil && out.EscapedPath() != escaped {
		out.RawPath = escaped
	}
	return out, err
}

// badScheme returns the error for a URL whose scheme is missing or is none that targets may have.
// If the scheme is missing, the error says what to write. It repeats nothing that may be a
// password.
func badScheme(u *url.URL) error {
	var rest string // the text that belongs behind the scheme
	switch port, path, _ := strings.Cut(u.Opaque, "/"); {
	case u.Scheme == "" && u.Host != "": // //host
		rest = u.Host + u.EscapedPath()
	case u.Scheme == "" && u.Path == "":
		return errors.New("the URL is empty")
	case u.Scheme == "" && u.Path[0] != '/': // host
		rest = u.EscapedPath()
	case u.Scheme == "":
		return errors.New("the URL has neither a scheme nor a host")
	case u.Scheme == "unix":
		return errors.New(`a Unix socket is an Addr, "unix:/path", beside a URL such as "http://localhost"`)
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
