package wsproxy

import (
	"cmp"
	"maps"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
)

// A ForwardedMode says what becomes of the forwarding headers of a trusted peer. Those of any other
// peer are dropped in every mode.
type ForwardedMode uint8

const (
	// ForwardedAppend adds the peer's address to X-Forwarded-For and sets X-Forwarded-Proto, -Host
	// and -Port where they are absent. The port is the one that the client connected to. If a
	// trusted peer has sent a Proto or Host without a Port, it is the port in that Host, or the one
	// that the scheme implies.
	ForwardedAppend ForwardedMode = iota
	// ForwardedPreserve passes what a trusted peer sent and adds nothing.
	ForwardedPreserve
	// ForwardedRemove removes all of them and adds none.
	ForwardedRemove
)

// forwardingFields is how many fields appendForwarded adds at most, without Forwarded.
const forwardingFields = 4

// forward sets the forwarding headers of the outgoing request. It puts back those of a trusted peer
// that ReverseProxy has removed. The lines that it adds are in the memory of into.
func (p *Proxy) forward(pr *httputil.ProxyRequest, at *peer, into *fields) {
	if p.Forwarded == ForwardedRemove {
		maps.DeleteFunc(pr.Out.Header, func(name string, _ []string) bool { return isForwarding(name) })
		return
	}
	if at.trusted {
		for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
			if values := pr.In.Header[name]; len(values) > 0 {
				pr.Out.Header[name] = slices.Clone(values)
			}
		}
		for name := range tokens(pr.In.Header["Connection"]) {
			if name = http.CanonicalHeaderKey(name); isForwarding(name) && len(pr.In.Header[name]) > 0 {
				pr.Out.Header[name] = slices.Clone(pr.In.Header[name])
			}
		}
	}
	if p.Forwarded == ForwardedAppend {
		p.appendForwarded(pr.In, pr.Out.Header, at, into)
	}
}

// appendForwarded adds what this proxy knows to the headers of trusted peers. If they have sent
// only one of X-Forwarded-For and Forwarded, the client's address goes into the other one, too, so
// that the two agree for the target.
func (p *Proxy) appendForwarded(in *http.Request, h http.Header, at *peer, into *fields) {
	into.values = slices.Grow(into.values, forwardingFields)
	setAbsent := func(name, value string) {
		if len(h[name]) == 0 && value != "" {
			h[name] = into.line(value)
		}
	}
	behind := at.client.Addr() != at.addr
	if p.RFC7239 {
		lines := h["Forwarded"]
		if behind && len(lines) == 0 {
			lines = []string{"for=" + formatNode(at.client.Addr()) + ";proto=" + protoOf(at.tls)}
		}
		h["Forwarded"] = appendForwardedElement(lines, forwardedElement(in.Host, at))
	}
	if at.addr.IsValid() {
		lines := h["X-Forwarded-For"]
		if behind && len(lines) == 0 {
			lines = []string{at.client.Addr().String()}
		}
		h["X-Forwarded-For"] = into.line(appendTo(lines, addrText(at.addr.WithZone(""), in.RemoteAddr)))
	} else if behind { // a Unix socket has no address
		setAbsent("X-Forwarded-For", at.client.Addr().String())
	}
	told := len(h["X-Forwarded-Proto"]) > 0 || len(h["X-Forwarded-Host"]) > 0 || at.said.proto != "" || at.said.host != ""
	setAbsent("X-Forwarded-Proto", protoOf(at.tls))
	setAbsent("X-Forwarded-Host", cmp.Or(at.said.host, in.Host))
	if told {
		setAbsent("X-Forwarded-Port", portTold(h))
	} else {
		setAbsent("X-Forwarded-Port", port(in, at.secure))
	}
}

// addrText returns addr.String(). If remote, a host with a port, begins with the same text, the
// result is a part of it, which allocates nothing.
func addrText(addr netip.Addr, remote string) string {
	var memory [64]byte
	text := addr.AppendTo(memory[:0])
	remote = strings.TrimPrefix(remote, "[")
	if strings.HasPrefix(remote, string(text)) {
		return remote[:len(text)]
	}
	return string(text)
}

// appendTo returns one line with the elements of a list header and one more. It drops empty
// elements at the ends of lines.
func appendTo(lines []string, element string) string {
	list := element
	for _, line := range slices.Backward(lines) {
		if line = strings.Trim(line, ", \t"); line != "" {
			list = line + ", " + list
		}
	}
	return list
}
