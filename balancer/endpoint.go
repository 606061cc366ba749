package balancer

import (
	"cmp"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// Endpoint returns the network and the address to dial, as [net.Dialer.DialContext] takes them:
// "tcp" with a host and a port, or "unix" with the path of a socket. It is the only thing to
// dial for requests, tunnels and checks. Both are empty for a target without a URL.
func (t *Target) Endpoint() (network, address string) {
	if path, ok := cutUnix(t.Addr); ok {
		return "unix", path
	}
	switch {
	case t.Addr != "":
		return "tcp", t.Addr
	case t.URL == nil:
		return "", ""
	}
	return "tcp", hostPort(t.URL)
}

// TLSConfig returns a copy of base for connections to the target. Its ServerName is the target's,
// else base's, else the URL's host. If the target has a Certificate, the copy offers that one and
// no other. A nil base means the zero [tls.Config]. The caller sets NextProtos.
//
// With a Certificate the copy has no ClientSessionCache, because a resumed session keeps the client
// certificate that it began with.
func (t *Target) TLSConfig(base *tls.Config) *tls.Config {
	conf := base.Clone()
	if conf == nil {
		conf = &tls.Config{}
	}
	conf.ServerName = cmp.Or(asciiHost(t.ServerName), conf.ServerName, certificateHost(t.URL))
	if t.Certificate != nil {
		conf.Certificates = []tls.Certificate{*t.Certificate}
		conf.GetClientCertificate = nil
		conf.ClientSessionCache = nil
	}
	return conf
}

// serverName returns the name that the target's certificate must have if the tls.Config names none.
func (t *Target) serverName() string { return cmp.Or(t.ServerName, certificateHost(t.URL)) }

// certificateHost returns the URL's host in the form that certificates use: without a zone, which
// has no meaning outside of this machine (RFC 6874 section 1).
func certificateHost(u *url.URL) string {
	if u == nil {
		return ""
	}
	host := asciiHost(u.Hostname())
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.WithZone("").String()
	}
	return host
}

// hostPort returns the URL's host and port, IPv6 in brackets.
func hostPort(u *url.URL) string {
	return net.JoinHostPort(asciiHost(u.Hostname()), cmp.Or(u.Port(), defaultPort(u.Scheme)))
}

// defaultPort returns the port of a scheme. It is empty if the scheme has none.
func defaultPort(scheme string) string {
	switch scheme {
	case "http", "ws", "h2c":
		return "80"
	case "https", "wss":
		return "443"
	}
	return ""
}

// asciiHost returns host in its normal form, or as it is if it has none.
func asciiHost(host string) string {
	if normal, err := normalizeHost(host); err == nil {
		return normal
	}
	return host
}

// maxHost is the greatest length of a name in octets, with its final dot (RFC 1035 section 2.3.4).
const maxHost = 254

// normalizeHost returns the one spelling of a host. An address is written as in RFC 5952. An IPv4
// address that is mapped into IPv6 is written as IPv4, because both reach the same host. A name is
// written in lower case, and an internationalised one as in DNS (RFC 5891). A final dot stays: it
// makes a resolver ignore the search list, so that the name may mean another host.
func normalizeHost(host string) (string, error) {
	if len(host) > 4*maxHost { // octets of UTF-8 for one of DNS; to convert more takes long
		return "", errors.New("the host is too long")
	}
	if !isASCII(host) {
		ascii, err := idna.Lookup.ToASCII(host)
		if err != nil {
			return "", fmt.Errorf("host %q is no internationalised domain name: %w", host, err)
		}
		host = ascii
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if strings.ContainsFunc(addr.Zone(), notInZone) {
			return "", fmt.Errorf("host %q has characters that no zone has", host)
		}
		return addr.Unmap().String(), nil
	}
	switch {
	case host == "":
		return "", errors.New("the host is empty")
	case len(host) > maxHost:
		return "", errors.New("the host is too long")
	case strings.Contains(host, ":"):
		return "", fmt.Errorf("host %q: an IPv6 address goes into brackets, and a port is a number", host)
	case strings.ContainsFunc(host, notInHost):
		return "", fmt.Errorf("host %q has characters that no host has", host)
	}
	return strings.ToLower(host), nil
}

// notInHost reports whether c cannot be in a name: it would end the host in a URL or a header.
func notInHost(c rune) bool {
	return c <= ' ' || c >= 0x7f || strings.ContainsRune("\"#%/:<>?@[\\]^`{|}", c)
}

// notInZone is notInHost for zones: Windows has spaces in them.
func notInZone(c rune) bool { return c != ' ' && notInHost(c) }

func isASCII(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c >= 0x80 })
}

// normalizeAuthority returns the host and port of a URL in their one spelling, without the
// scheme's default port.
func normalizeAuthority(u *url.URL) (string, error) {
	host, port := u.Hostname(), u.Port()
	if strings.Contains(host, ":") && !strings.HasPrefix(u.Host, "[") {
		return "", fmt.Errorf("host %q: an IPv6 address goes into brackets, and a port is a number", u.Host)
	}
	host, err := normalizeHost(host)
	if err != nil {
		return "", err
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	if port, err = normalizePort(port); err != nil || port == "" || port == defaultPort(u.Scheme) {
		return host, err
	}
	return host + ":" + port, nil
}

// normalizePort returns the port without leading zeros. An empty one stays.
func normalizePort(port string) (string, error) {
	if port == "" {
		return "", nil
	}
	if !isPort(port) {
		return "", fmt.Errorf("port %q is not within 1 to 65535", port)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return strconv.FormatUint(n, 10), err
}

// normalizePath returns the escaped path of a URL in the one spelling of RFC 3986 section 6.2.2:
// escapes are in capitals, and only where they are needed. A slash at the end is removed, because
// the paths of requests begin with one. Several slashes at the end are kept, because they reach the
// target.
func normalizePath(u *url.URL) string {
	path := writtenPath(u)
	var b strings.Builder
	if path != "" && path[0] != '/' {
		b.WriteByte('/')
	}
	for i := 0; i < len(path); i++ {
		c := path[i]
		escaped := c == '%'
		if escaped {
			n, _ := strconv.ParseUint(path[i+1:i+3], 16, 8)
			c = byte(n)
			i += 2
		}
		if isUnreserved(c) || !escaped && strings.IndexByte("/!$&'()*+,;=:@[]", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	path = b.String()
	if strings.HasSuffix(path, "/") && !strings.HasSuffix(path, "//") {
		path = path[:len(path)-1]
	}
	return path
}

// writtenPath returns the path of u as it was written, if that is known. Its escapes are valid.
// EscapedPath would give up all escapes for one octet that lacks one.
func writtenPath(u *url.URL) string {
	if path, err := url.PathUnescape(u.RawPath); err == nil && path == u.Path {
		return u.RawPath
	}
	return u.EscapedPath()
}

// isUnreserved reports whether c needs no escape anywhere in a URL, RFC 3986 section 2.3.
func isUnreserved(c byte) bool {
	letter := 'a' <= c|0x20 && c|0x20 <= 'z'
	digit := '0' <= c && c <= '9'
	return letter || digit || strings.IndexByte("-._~", c) >= 0
}

// normalizeAddr returns the one spelling of Target.Addr. It is empty if it is the same as the host
// and port of the URL, which is normalized.
func normalizeAddr(addr string, u *url.URL) (string, error) {
	if addr == "" {
		return "", nil
	}
	if path, ok := cutUnix(addr); ok {
		path, err := normalizeSocket(path)
		if err != nil {
			return "", fmt.Errorf("the Addr %q: %w", addr, err)
		}
		return unixPrefix + path, nil
	}
	if strings.Contains(addr, "@") { // the text before the @ may be a password
		return "", errors.New("the Addr has user information")
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", fmt.Errorf("the Addr %q is neither host:port nor unix:/path", addr)
	}
	if strings.Contains(host, "/") {
		return "", fmt.Errorf("the Addr %q is neither host:port nor unix:/path: a scheme and a path belong to the URL", addr)
	}
	if host, err = normalizeHost(host); err != nil {
		return "", fmt.Errorf("the Addr %q: %w", addr, err)
	}
	if port, err = normalizePort(port); err != nil {
		return "", fmt.Errorf("the Addr %q: %w", addr, err)
	}
	if port == "" {
		return "", fmt.Errorf("the Addr %q has no port", addr)
	}
	if addr = net.JoinHostPort(host, port); addr == hostPort(u) {
		return "", nil
	}
	return addr, nil
}

const unixPrefix = "unix:"

// cutUnix returns the path of a Unix socket, and reports whether addr names one.
func cutUnix(addr string) (path string, ok bool) {
	if n := len(unixPrefix); len(addr) >= n && strings.EqualFold(addr[:n], unixPrefix) {
		return addr[n:], true
	}
	return "", false
}

// normalizeSocket returns the one spelling of a socket's path: without repeated slashes and without
// "." elements. Elements ".." stay, because they may follow a symbolic link.
func normalizeSocket(path string) (string, error) {
	switch {
	case path == "":
		return "", errors.New("unix: needs the path of a socket")
	case strings.IndexByte(path, 0) >= 0:
		return "", errors.New("the path has a zero octet")
	case path[0] == '@' && runtime.GOOS != "linux":
		return "", errors.New("only Linux has abstract sockets")
	case path == "@":
		return "", errors.New("the abstract socket has no name")
	case path[0] != '@' && path[0] != '/' && !filepath.IsAbs(path):
		return "", errors.New("the path of the socket is not absolute")
	case path[0] == '/':
		if path = cleanPath(path); path == "" {
			return "", errors.New("the path names no socket")
		}
	}
	if limit := maxSocketPath(); len(path) > limit {
		return "", fmt.Errorf("the path has %d octets, a socket's has at most %d", len(path), limit)
	}
	return path, nil
}

// cleanPath returns an absolute path without empty and "." elements. It is empty if it ends in a
// slash or in "..", as the path of a directory.
func cleanPath(path string) string {
	var b strings.Builder
	last := ""
	for element := range strings.SplitSeq(path, "/") {
		last = element
		if element != "" && element != "." {
			b.WriteString("/" + element)
		}
	}
	if last == "" || last == "." || last == ".." {
		return ""
	}
	return b.String()
}

// maxSocketPath returns how many octets the path of a Unix socket may have here: what the
// system's sockaddr_un holds, with a zero octet behind it.
func maxSocketPath() int {
	switch runtime.GOOS {
	case "linux", "android", "windows", "solaris", "illumos":
		return 107
	}
	return 103
}

// normalizeServerName returns the one spelling of Target.ServerName. A final dot is removed,
// because names in certificates have none.
func normalizeServerName(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	if strings.Contains(name, "@") { // there may be a password before it
		return "", errors.New("the ServerName is no host; user information is refused")
	}
	host := strings.TrimSuffix(name, ".")
	if inner, ok := strings.CutPrefix(host, "["); ok && strings.HasSuffix(inner, "]") {
		host = strings.TrimSuffix(inner, "]")
	}
	if strings.Contains(host, "%") {
		return "", fmt.Errorf("ServerName %q: certificates have no zone", name)
	}
	host, err := normalizeHost(host)
	if err != nil {
		return "", fmt.Errorf("ServerName %q: %w", name, err)
	}
	host = strings.TrimSuffix(host, ".")
	if host == "" || strings.HasSuffix(host, ".") {
		return "", fmt.Errorf("ServerName %q is no name", name)
	}
	return host, nil
}

// copyCertificate returns a certificate that shares no list with c.
func copyCertificate(c *tls.Certificate) *tls.Certificate {
	if c == nil {
		return nil
	}
	out := *c
	out.Certificate = slices.Clone(c.Certificate)
	return &out
}

// sameCertificate reports whether two client certificates are the same, with equal octets and equal
// keys. Keys that cannot be compared count as different.
func sameCertificate(a, b *tls.Certificate) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.EqualFunc(a.Certificate, b.Certificate, slices.Equal) &&
		slices.EqualFunc(a.SignedCertificateTimestamps, b.SignedCertificateTimestamps, slices.Equal) &&
		slices.Equal(a.OCSPStaple, b.OCSPStaple) &&
		slices.Equal(a.SupportedSignatureAlgorithms, b.SupportedSignatureAlgorithms) &&
		sameKey(a.PrivateKey, b.PrivateKey)
}

func sameKey(a, b crypto.PrivateKey) bool {
	if key, ok := a.(interface {
		Equal(x crypto.PrivateKey) bool
	}); ok {
		return key.Equal(b)
	}
	return reflect.TypeOf(a) == reflect.TypeOf(b) && reflect.ValueOf(a).Comparable() && a == b
}
