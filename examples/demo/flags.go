package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/examples/internal/commandline"
	"github.com/stickylb/stickylb/health"
	"github.com/stickylb/stickylb/stickiness"
	"github.com/stickylb/stickylb/wsproxy"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// Options are the values of the flags. They have been validated as far as is possible without
// opening anything.
type options struct {
	listen, listenTLS, admin string   // addresses; empty: none
	adminHosts               []string // names that -admin answers to, besides loopback names and its address
	certFile, keyFile        string   // empty: self-signed

	targets   []balancer.Target // none: the embedded backends
	picker    picker
	tcp       []tcpFlag
	sticky    sticky
	keys      [][]byte // none: a random key
	check     health.Check
	interval  time.Duration
	trusted   []netip.Prefix
	proxies   []netip.Prefix // peers that send a PROXY header
	sendProxy int            // version of the PROXY header for backends; 0: none
	forwarded wsproxy.ForwardedMode

	stickyText, path string   // as given
	targetTexts      []string // as given
	keyTexts         []string // as given
	given            []string // names of the flags that were given
}

// parse parses the command line. Its error has one line. It is [flag.ErrHelp] if the flags were
// listed on help.
func parse(args []string, help io.Writer) (*options, error) {
	o := &options{picker: pickers[0]}
	f := o.flags()
	if err := commandline.Parse(f, args, help, "demo balances HTTP and WebSockets, and keeps every session with its backend.\n"+
		"An interrupt, SIGTERM or SIGHUP ends it in order, a second one at once.\n\n"); err != nil {
		return nil, err
	}
	f.Visit(func(f *flag.Flag) { o.given = append(o.given, f.Name) })
	for _, check := range []func() error{o.setTargets, o.checkTCP, o.checkListeners, o.setCheck, o.setSticky} {
		if err := check(); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func (o *options) flags() *flag.FlagSet {
	f := flag.NewFlagSet("demo", flag.ContinueOnError)
	f.SetOutput(io.Discard) // the caller prints errors, in one line
	f.StringVar(&o.listen, "listen", "127.0.0.1:8080", "`address` of the plain HTTP listener; empty for none")
	f.StringVar(&o.listenTLS, "listen-tls", "127.0.0.1:8443", "`address` of the TLS listener, HTTP/1.1 and HTTP/2; empty for none")
	f.StringVar(&o.certFile, "tls-cert", "", "PEM `file` of the certificate and its chain; self-signed without")
	f.StringVar(&o.keyFile, "tls-key", "", "PEM `file` of the certificate's private key")
	f.Func("target", "a backend as `[ID=]URL`, with options behind it: ;weight=N ;zone=NAME ;for-zones=NAME,NAME ;label.NAME=VALUE ;backup ;addr=HOST:PORT ;server-name=NAME ;max-requests=N ;max-tunnels=N; repeatable; without any, three embedded ones: "+strings.Join(embedded, ", "), add(&o.targetTexts))
	f.Func("tcp", "`ADDR=ID,ID...`: balance any TCP protocol there over these backends, which may have tcp:// URLs; for protocols that open a second connection for the first one's sake, as PostgreSQL does to cancel, use -picker source; repeatable", o.addTCP)
	f.StringVar(&o.stickyText, "sticky", "lb", "`mode` of stickiness: lb (browser-session cookie), lb=DURATION, app=COOKIE (with the application's cookie), learn=COOKIE or learn-header=NAME (remembers the application's sessions), header=NAME (responses tell clients what to send), none")
	f.Func("picker", "`name` of the algorithm: "+pickerNames()+" (default "+pickers[0].name+")", o.setPicker)
	f.StringVar(&o.path, "check", "", "`path` of an active HTTP check, 2xx and 3xx are healthy; without it a TCP connect check")
	f.DurationVar(&o.interval, "check-interval", time.Second, "time between two checks of a backend")
	f.Func("seal-key", "32-byte sealing key in `hex`, shared by instances; repeatable, the first one seals and all open; random without", add(&o.keyTexts))
	f.Func("trust", "`CIDR` of peers whose X-Forwarded-* and Forwarded are believed; repeatable", addPrefix(&o.trusted))
	f.Func("forwarded", "`mode` of the forwarding headers of such peers: append (default), preserve, remove", o.setForwarded)
	f.Func("send-proxy", "`version` of the PROXY header that begins each connection to a backend: v1 or v2; none without", o.setSendProxy)
	f.Func("accept-proxy", "`CIDR` of peers that begin each connection with a PROXY header, version 1 or 2; repeatable", addPrefix(&o.proxies))
	f.StringVar(&o.admin, "admin", "", "`address` of the health and tunnel status, with drain and down, and of the settings that change while the demo serves; it asks nobody who they are; off without")
	f.Func("admin-host", "`name` by which people reach -admin, besides loopback names and the address itself; repeatable", o.addAdminHost)
	return f
}

func (o *options) addAdminHost(value string) error {
	if value == "" || strings.ContainsAny(value, ":/") && !isAddr(value) {
		return errors.New("no name without a port such as admin.example")
	}
	o.adminHosts = append(o.adminHosts, value)
	return nil
}

func isAddr(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

// add returns the function of a flag that may be repeated. Values are validated later, because the
// error of a flag's function contains the value, which may be a secret.
func add(to *[]string) func(string) error {
	return func(value string) error {
		*to = append(*to, value)
		return nil
	}
}

func (o *options) setPicker(value string) error {
	for _, p := range pickers {
		if p.name == value {
			o.picker = p
			return nil
		}
	}
	return errors.New("the algorithms are " + pickerNames())
}

func addPrefix(to *[]netip.Prefix) func(string) error {
	return func(value string) error {
		p, err := netip.ParsePrefix(value)
		if err != nil {
			return errors.New("no CIDR such as 10.0.0.0/8 or 2001:db8::/32")
		}
		*to = append(*to, p)
		return nil
	}
}

func (o *options) setForwarded(value string) error {
	modes := map[string]wsproxy.ForwardedMode{
		"append": wsproxy.ForwardedAppend, "preserve": wsproxy.ForwardedPreserve, "remove": wsproxy.ForwardedRemove}
	mode, ok := modes[value]
	if !ok {
		return errors.New("the modes are append, preserve, remove")
	}
	o.forwarded = mode
	return nil
}

func (o *options) setSendProxy(value string) error {
	switch value {
	case "v1":
		o.sendProxy = 1
	case "v2":
		o.sendProxy = 2
	default:
		return errors.New("the versions are v1, v2")
	}
	return nil
}

func (o *options) checkListeners() error {
	if len(o.targets) > 0 && !slices.ContainsFunc(o.targets, speaksHTTP) {
		for name, addr := range map[string]*string{"listen": &o.listen, "listen-tls": &o.listenTLS} {
			if *addr != "" && slices.Contains(o.given, name) {
				return fmt.Errorf("-%s has no target that speaks HTTP", name)
			}
			*addr = ""
		}
	}
	if o.listen == "" && o.listenTLS == "" && len(o.tcp) == 0 {
		return errors.New("-listen and -listen-tls are both empty")
	}
	if (o.certFile == "") != (o.keyFile == "") {
		return errors.New("-tls-cert and -tls-key go together")
	}
	for _, l := range []struct{ name, addr string }{{"listen", o.listen}, {"listen-tls", o.listenTLS}, {"admin", o.admin}} {
		if _, _, err := net.SplitHostPort(l.addr); l.addr != "" && err != nil {
			return fmt.Errorf("invalid value %q for flag -%s: no address such as 127.0.0.1:8080", l.addr, l.name)
		}
	}
	return nil
}

func (o *options) setTargets() (err error) {
	if o.targets, err = balancer.ParseTargets(o.targetTexts...); err == nil && len(o.targets) == 0 && len(o.targetTexts) > 0 {
		err = errors.New("-target is empty")
	}
	return err
}

func (o *options) setCheck() error {
	if o.interval <= 0 {
		return fmt.Errorf("invalid value %q for flag -check-interval: must be above zero", o.interval)
	}
	o.check = health.TCP{Dial: o.probe()}
	if o.path == "" {
		return nil
	}
	if _, err := url.ParseRequestURI(o.path); err != nil || o.path[0] != '/' || strings.Contains(o.path, "#") {
		return fmt.Errorf("invalid value %q for flag -check: no path such as /healthz", o.path)
	}
	o.check = health.HTTP{Path: o.path, Dial: o.probe()}
	return nil
}

// probe returns the dialer of the checks. If backends expect a PROXY header, the dialer sends one
// with the command LOCAL. Otherwise probe returns nil, which means the default dialer.
func (o *options) probe() health.DialFunc {
	if o.sendProxy == 0 {
		return nil
	}
	d := &proxyproto.Dialer{Header: func(context.Context, net.Conn) (*proxyproto.Header, error) {
		return &proxyproto.Header{Version: o.sendProxy, Local: true}, nil
	}}
	return d.DialContext
}

// setSticky parses the mode and the keys. It makes the policy once to validate it.
func (o *options) setSticky() (err error) {
	if o.keys, err = parseKeys(o.keyTexts); err != nil {
		return fmt.Errorf("invalid value for flag -seal-key: %w", err)
	}
	codec, err := cookie.NewSealed(cookie.SealedOptions{Keys: o.keys})
	if err != nil {
		return fmt.Errorf("invalid value for flag -seal-key: %w", err)
	}
	if o.sticky, err = parseSticky(o.stickyText); err == nil {
		_, err = o.sticky.policy(codec, &stickiness.MemoryStore{})
	}
	if err != nil {
		return fmt.Errorf("invalid value %q for flag -sticky: %w", o.stickyText, err)
	}
	return nil
}
