package wsproxy

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/wsproxy/internal/underway"
)

// Validate returns an error if a field of the proxy, or a target that its pool has now, is not
// valid. Call it before the server starts. Otherwise ServeHTTP panics at the first request.
// Validate changes nothing.
func (p *Proxy) Validate() error {
	checks := []func() error{
		p.settings().check, p.checkTransport, p.checkSendProxy, p.checkUpstream, p.checkForwarded, p.Retry.check, p.checkTargets,
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// check returns an error if the settings that a Proxy and a Sticky have in common are not valid. An
// interface field that holds a nil pointer does not equal nil.
func (s *settings) check() error {
	switch {
	case s.pool == nil:
		return fmt.Errorf("wsproxy: %s has no Pool", s.of)
	case underway.HoldsNil(s.policy):
		return fmt.Errorf("wsproxy: Policy is a nil %T", s.policy)
	case underway.LacksHandler(s.logger):
		return errors.New("wsproxy: Logger has no handler")
	case s.perKeyStatus != 0 && s.perKeyStatus != http.StatusServiceUnavailable && s.perKeyStatus != http.StatusTooManyRequests:
		return errors.New("wsproxy: PerKeyStatus is neither 503 nor 429")
	}
	for _, prefix := range s.trust.prefixes {
		if !prefix.IsValid() {
			return errors.New("wsproxy: Trusted has an invalid prefix")
		}
	}
	return errors.Join(checkUpgrades(s.upgrades), s.tunnels.check())
}

func (p *Proxy) checkTransport() error {
	if underway.HoldsNil(p.Transport) {
		return fmt.Errorf("wsproxy: Transport is a nil %T", p.Transport)
	}
	return nil
}

func (p *Proxy) checkForwarded() error {
	if p.Forwarded > ForwardedRemove {
		return errors.New("wsproxy: Forwarded is no ForwardedMode")
	}
	return nil
}

// checkUpgrades returns an error if an element of Upgrades is no protocol as RFC 9110 section 7.8
// defines it: one token, or two tokens with a slash between them.
func checkUpgrades(upgrades []string) error {
	for _, protocol := range upgrades {
		name, version, versioned := strings.Cut(protocol, "/")
		if !httpguts.ValidHeaderFieldName(name) || versioned && !httpguts.ValidHeaderFieldName(version) {
			return fmt.Errorf("wsproxy: Upgrades has %q, which is no protocol", protocol)
		}
	}
	return nil
}

func (r *Retry) check() error {
	for _, status := range r.On {
		if status < 200 || status > 999 {
			return fmt.Errorf("wsproxy: Retry.On has %d, which is no final status", status)
		}
	}
	return nil
}

// check returns an error if a close frame must not have this code or reason (RFC 6455 sections
// 5.5.1 and 7.4).
func (l *TunnelLimits) check() error {
	switch c := l.CloseCode; {
	case c != 0 && c < 1000, c == 1004, c == 1005, c == 1006, c > 1014 && c < 3000, c > 4999:
		return fmt.Errorf("wsproxy: Tunnels.CloseCode %d may not be sent", c)
	case !utf8.ValidString(l.CloseReason):
		return errors.New("wsproxy: Tunnels.CloseReason is not UTF-8")
	}
	return nil
}

// checkForSticky returns an error if a field is set that a Sticky has no use for.
func (l *TunnelLimits) checkForSticky() error {
	for _, field := range []struct {
		name string
		set  bool
	}{
		{"Handshake", l.Handshake != 0}, {"Idle", l.Idle != 0}, {"Context", l.Context != nil}, {"Lifetime", l.Lifetime != 0},
		{"Jitter", l.Jitter != 0}, {"CloseReason", l.CloseReason != ""}, {"Linger", l.Linger != 0},
	} {
		if field.set {
			return fmt.Errorf("wsproxy: Tunnels.%s has no effect in a Sticky, whose handler moves the bytes", field.name)
		}
	}
	return nil
}

// checkTargets returns an error if the pool has a target that a Proxy cannot serve. For targets
// that are added later, the pool's Update returns the error.
func (p *Proxy) checkTargets() error {
	for _, m := range p.Pool.Members() {
		t := m.Target()
		if err := checkScheme(t); err != nil {
			return fmt.Errorf("wsproxy: target %q: %w", t.ID, err)
		}
	}
	return nil
}

func checkScheme(t balancer.Target) error {
	switch {
	case t.URL == nil:
		return errors.New("a Proxy needs a URL; a target without one is for a Sticky")
	case t.URL.Scheme == "tcp":
		return fmt.Errorf("a Proxy speaks HTTP, and %s is for a stream.Server", t.URL)
	}
	return nil
}

// Admit implements balancer.Admitter.
func (o observer) Admit(t balancer.Target) error { return checkScheme(t) }
