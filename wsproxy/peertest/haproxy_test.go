package peertest_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/cookie"
	"github.com/stickylb/stickylb/stickiness"
)

// A pair is HAProxy and a stickylb Proxy in front of the same backends, with the same cookie.
type pair struct {
	haproxy, stickylb string         // addresses
	socket            string         // for HAProxy's commands
	pool              *balancer.Pool // of the Proxy
}

// both are the pair's addresses, under their names.
func (p pair) both() map[string]string {
	return map[string]string{"HAProxy": p.haproxy, "stickylb": p.stickylb}
}

// A server is a line of HAProxy's, and the target that it is to us.
type server struct {
	backend
	value    string
	computed bool // the value: HAProxy is not told
	backup   bool
}

func (s server) line() string {
	line := fmt.Sprintf("server %s %s", s.id, s.addr)
	if !s.computed {
		line += " cookie " + s.value
	}
	if s.backup {
		line += " backup"
	}
	return line
}

// servers returns backends that take new sessions, with the values s1, s2 and so on.
func servers(t *testing.T, ids ...string) []server {
	t.Helper()
	var all []server
	for i, b := range newBackends(t, ids...) {
		all = append(all, server{backend: b, value: fmt.Sprintf("s%d", i+1)})
	}
	return all
}

// activeAndSpare returns a server that takes new sessions, with the value s1, and one with the
// value s9 that serves those sessions alone that are bound to it. With these, who answers tells
// whether a balancer has believed a cookie.
func activeAndSpare(t *testing.T) []server {
	t.Helper()
	all := servers(t, "active", "spare")
	all[1].value, all[1].backup = "s9", true
	return all
}

func values(all []server) map[string]string {
	idToValue := make(map[string]string, len(all))
	for _, s := range all {
		idToValue[s.id] = s.value
	}
	return idToValue
}

// newPair starts both balancers. options are what HAProxy's section has besides its servers.
func newPair(t *testing.T, options string, policy stickiness.Policy, all []server) pair {
	t.Helper()
	dir := t.TempDir()
	p := pair{haproxy: newAddr(t), socket: filepath.Join(dir, "socket")}
	var lines []string
	var targets []balancer.Target
	for _, s := range all {
		lines = append(lines, s.line())
		target := s.target()
		target.Backup = s.backup
		targets = append(targets, target)
	}
	proxy := newProxy(t, policy, targets...)
	p.pool, p.stickylb = proxy.Pool, serveProxy(t, proxy)
	conf := fmt.Sprintf(`
global
	maxconn 100
	nbthread 1
	stats socket %s mode 600 level admin
defaults
	mode http
	timeout connect 5s
	timeout client 30s
	timeout server 30s
listen app
	bind %s
	balance roundrobin
	%s
	%s
`, p.socket, p.haproxy, options, strings.Join(lines, "\n\t"))
	file := filepath.Join(dir, "haproxy.cfg")
	require.NoError(t, os.WriteFile(file, []byte(conf), 0o600))
	start(t, p.haproxy, program(t, "haproxy"), "-db", "-f", file)
	return p
}

// command tells HAProxy to do something that it answers with nothing.
func (p pair) command(t *testing.T, line string) {
	t.Helper()
	c, err := net.Dial("unix", p.socket)
	require.NoError(t, err)
	defer c.Close()
	_, err = fmt.Fprintln(c, line)
	require.NoError(t, err)
	said := make([]byte, 1000)
	n, _ := c.Read(said)
	require.Empty(t, strings.TrimSpace(string(said[:n])), line)
}

// insert returns what makes both balancers insert the cookie SRV, with dates if there are limits.
func insert(t *testing.T, idle, life time.Duration, all []server) (options string, policy stickiness.Policy) {
	t.Helper()
	codec := &cookie.InsecureHAProxy{MaxIdle: idle, MaxLife: life}
	require.NoError(t, codec.Store(values(all)))
	o := stickiness.LBCookieOptions{Name: "SRV", Codec: codec, CORS: stickiness.CORSNever}
	policy, err := stickiness.NewLBCookie(o)
	require.NoError(t, err)
	options = "cookie SRV insert indirect nocache"
	if idle > 0 {
		options += fmt.Sprintf(" maxidle %ds", int(idle.Seconds()))
	}
	if life > 0 {
		options += fmt.Sprintf(" maxlife %ds", int(life.Seconds()))
	}
	return options, policy
}

// dynamic returns what makes both balancers insert values that HAProxy computes from addresses.
func dynamic(t *testing.T, idle, life time.Duration, all []server) (options string, policy stickiness.Policy) {
	t.Helper()
	for i, s := range all {
		all[i].value = cookie.InsecureHAProxyDynamic("MYKEY", netip.MustParseAddrPort(s.addr))
		all[i].computed = true
	}
	options, policy = insert(t, idle, life, all)
	return options + " dynamic\n\tdynamic-cookie-key MYKEY", policy
}

// prefix returns what makes both balancers put a prefix into the application's cookie SID.
func prefix(t *testing.T, all []server) (options string, policy stickiness.Policy) {
	t.Helper()
	var codec cookie.InsecureTable
	require.NoError(t, codec.Store(values(all)))
	policy, err := stickiness.NewPrefixCookie(stickiness.PrefixCookieOptions{Cookie: "SID", Codec: &codec})
	require.NoError(t, err)
	return "cookie SID prefix nocache", policy
}

func TestHAProxyInsert_SessionsContinue(t *testing.T) {
	all := servers(t, "app-1", "app-2", "app-3")
	options, policy := insert(t, 30*time.Minute, 8*time.Hour, all)
	p := newPair(t, options, policy, all)
	continues(t, p.both(), "/", nil, "app-1", "app-2", "app-3")
}

func TestHAProxyDynamic_SessionsContinue(t *testing.T) {
	all := servers(t, "app-1", "app-2", "app-3")
	all[2].backend = newBackendAt(t, "app-3", listen(t, lastFamily(t)))
	options, policy := dynamic(t, 30*time.Minute, 8*time.Hour, all)
	p := newPair(t, options, policy, all)
	continues(t, p.both(), "/", nil, "app-1", "app-2", "app-3")
}

func TestHAProxyPrefix_SessionsContinue(t *testing.T) {
	all := servers(t, "app-1", "app-2", "app-3")
	options, policy := prefix(t, all)
	p := newPair(t, options, policy, all)
	own := func(answer) []string { return []string{"SID=0123~ABCD"} }
	continues(t, p.both(), setting("SID=0123~ABCD; Path=/; HttpOnly"), own, "app-1", "app-2", "app-3")
}

// Both write the cookie on the answer that switches protocols, too, and route the next one by it.
func TestHAProxyInsert_WebSocketsContinue(t *testing.T) {
	all := servers(t, "app-1", "app-2", "app-3")
	options, policy := insert(t, 30*time.Minute, 8*time.Hour, all)
	p := newPair(t, options, policy, all)
	for begin, addr := range p.both() {
		for range 3 {
			s := newSession(t)
			id := s.upgrade(t, addr)
			for name, addr := range p.both() {
				for range 2 {
					require.Equal(t, id, s.upgrade(t, addr), "begun at %s, at %s", begin, name)
					require.Equal(t, id, s.get(t, addr, "/").ID, "begun at %s, at %s", begin, name)
				}
			}
		}
	}
}

// A session whose server is gone goes to another, and a new cookie binds it there for both. HAProxy
// counts maxlife on from the old cookie's first date, a Proxy begins anew, as it does with a cookie
// of its own.
func TestHAProxyInsert_LostServer(t *testing.T) {
	all := servers(t, "app-1", "app-2", "lost")
	options, policy := insert(t, 30*time.Minute, 8*time.Hour, all)
	p := newPair(t, options+"\n\toption redispatch 1", policy, all)
	all[2].server.Close()
	for _, value := range []string{"s3", "unknown"} {
		for name, addr := range p.both() {
			s := newSession(t)
			now := time.Now().Unix()
			s.set("SRV", value+"|"+date(now-100)+"|"+date(now-200))
			a := s.get(t, addr, "/")
			var dates []string
			for second := now; second <= time.Now().Unix(); second++ {
				dates = append(dates, date(second))
			}
			require.Contains(t, []string{"app-1", "app-2"}, a.ID, name)
			for _, other := range p.both() {
				for range 3 {
					require.Equal(t, a.ID, s.get(t, other, "/").ID, name)
				}
			}
			require.Len(t, a.SetCookie, 1)
			parts := strings.Split(strings.TrimSuffix(normal(a.SetCookie)[0], "; Path=/"), "|")
			require.Len(t, parts, 3, a.SetCookie)
			require.Contains(t, dates, parts[1], name)
			if name == "HAProxy" {
				require.Equal(t, date(now-200), parts[2], value)
			} else {
				require.Equal(t, parts[1], parts[2], value)
			}
		}
	}
}

// Draining servers keep their sessions, those that are down do not, and neither gets new ones.
func TestHAProxyInsert_DrainingServer(t *testing.T) {
	all := servers(t, "app-1", "app-2")
	options, policy := insert(t, 0, 0, all)
	p := newPair(t, options, policy, all)
	for _, tt := range []struct {
		state string
		admin balancer.Admin
		bound string
	}{
		{"ready", balancer.Ready, "app-2"},
		{"drain", balancer.Draining, "app-2"},
		{"maint", balancer.Down, "app-1"},
	} {
		p.command(t, "set server app/app-2 state "+tt.state)
		member, _ := p.pool.Member("app-2")
		member.SetAdmin(tt.admin)
		for name, addr := range p.both() {
			for range 3 {
				require.Equal(t, tt.bound, ask(t, addr, "/", "SRV=s2").ID, "%s at %s", tt.state, name)
			}
			fresh := map[string]bool{ask(t, addr, "/").ID: true, ask(t, addr, "/").ID: true}
			require.Equal(t, tt.state == "ready", fresh["app-2"], "%s at %s", tt.state, name)
		}
	}
}

// Whatever HAProxy keeps out of caches with "nocache" we keep out as well.
func TestHAProxyInsert_Nocache(t *testing.T) {
	all := servers(t, "app-1", "app-2")
	options, policy := insert(t, 0, 0, all)
	p := newPair(t, options, policy, all)
	for _, header := range []string{"Cache-Control: public, max-age=60", "Cache-Control: s-maxage=60", `Etag: "1"`} {
		for name, addr := range p.both() {
			a := ask(t, addr, answering(header))
			require.NotEmpty(t, a.SetCookie, name)
			require.Contains(t, strings.Join(a.Header["Cache-Control"], ", "), "private", "%s at %s", header, name)
			a = ask(t, addr, answering(header), "SRV=s1")
			require.Empty(t, a.SetCookie, name)
			require.NotContains(t, strings.Join(a.Header["Cache-Control"], ", "), "private", "%s at %s", header, name)
		}
	}
}

// In insert mode with "indirect" the backend sees the same Cookie header behind either. (Where
// other than "; " stands around the cookie that is removed, HAProxy tidies up, and a Proxy leaves
// the other cookies as they were.)
func TestHAProxyInsert_Indirect(t *testing.T) {
	all := activeAndSpare(t)
	options, policy := insert(t, 0, 0, all)
	p := newPair(t, options, policy, all)
	for id, lines := range map[string][]string{
		"spare": {
			"SRV=s9", "SRV = s9", "a=1; SRV=s9", "SRV=s9; a=1", "a=1; SRV=s9; b=2", "a=1; SRV=s9;", "; SRV=s9",
			`a="1"; SRV=s9; b==2`, "SRV=x; SRV=s9", "SRV=s9; SRV=s1", "a=SRV=s1; SRV=s9",
		},
		"active": {
			"SRV=s1", "SRV=s1; SRV=s9", "srv=s9", "SRV", "SRV=", "XSRV=s9", "a=SRV=s9", "a=1; SRV=x; b=2",
		},
	} {
		for _, line := range lines {
			h, s := ask(t, p.haproxy, "/", line), ask(t, p.stickylb, "/", line)
			require.Equal(t, id, h.ID, line)
			require.Equal(t, h.seen, s.seen, line)
			require.Equal(t, normal(h.SetCookie), normal(s.SetCookie), line)
		}
	}
}

// With a prefix, the application's own cookie passes both ways through either, byte for byte the
// same.
func TestHAProxyPrefix_Values(t *testing.T) {
	all := activeAndSpare(t)
	options, policy := prefix(t, all)
	p := newPair(t, options, policy, all)
	for line, want := range map[string]seen{
		"SID=s9~ABC":             {"spare", []string{"SID=ABC"}},
		"SID=s9~a~b":             {"spare", []string{"SID=a~b"}},
		`SID=s9~"a=b"`:           {"spare", []string{`SID="a=b"`}},
		"SID=s9~a,b":             {"spare", []string{"SID=a,b"}},
		"SID=s9~":                {"spare", []string{"SID="}},
		"SID=s9":                 {"spare", []string{"SID=s9"}},
		"SID=s1~ABC":             {"active", []string{"SID=ABC"}},
		"SID=bad~XYZ":            {"active", []string{"SID=XYZ"}},
		"SID=~XYZ":               {"active", []string{"SID=XYZ"}},
		"SID=ABC":                {"active", []string{"SID=ABC"}},
		"SID=":                   {"active", []string{"SID="}},
		"SID":                    {"active", []string{"SID"}},
		"sid=s9~ABC":             {"active", []string{"sid=s9~ABC"}},
		"SIDX=s9~ABC":            {"active", []string{"SIDX=s9~ABC"}},
		"a=1; SID=s9~ABC; b=2":   {"spare", []string{"a=1; SID=ABC; b=2"}},
		"a=s1~1;SID=s9~ABC;":     {"spare", []string{"a=s1~1;SID=ABC;"}},
		"SID=x~A; SID=s9~B":      {"spare", []string{"SID=A; SID=B"}},
		"SID=s9~A; SID=s1~B":     {"spare", []string{"SID=A; SID=B"}},
		"SID=s1~A; SID=s9~B":     {"active", []string{"SID=A; SID=B"}},
		"SID=s9|ABCDE~ABC":       {"active", []string{"SID=ABC"}},
		"SID=s9~A; other=s9~B~C": {"spare", []string{"SID=A; other=s9~B~C"}},
	} {
		for name, addr := range p.both() {
			require.Equal(t, want, ask(t, addr, "/", line).seen, "%s at %s", line, name)
		}
	}
	for line, want := range map[string]string{
		"SID=ABC": "SID=s9~ABC",
		"SID=ABC; path=/x; HttpOnly; SameSite=Lax":       "SID=s9~ABC; path=/x; HttpOnly; SameSite=Lax",
		`SID="a b"; Path=/`:                              `SID=s9~"a b"; Path=/`,
		"SID=a~b; Expires=Fri, 01 Jan 2100 00:00:00 GMT": "SID=s9~a~b; Expires=Fri, 01 Jan 2100 00:00:00 GMT",
		"SID=a,b;":          "SID=s9~a,b;",
		"SID=; Max-Age=0":   "SID=s9~; Max-Age=0",
		"sid=ABC":           "sid=ABC",
		"SIDX=ABC; a=SID=1": "SIDX=ABC; a=SID=1",
		"SID":               "SID",
	} {
		for name, addr := range p.both() {
			a := ask(t, addr, setting("a=1", line, "b=s1~2"), "SID=s9~ABC")
			require.Equal(t, []string{"a=1", want, "b=s1~2"}, a.SetCookie, "%s at %s", line, name)
		}
	}
}

// HAProxy takes the quotes of Java's clients for a part of the value; here they are read (S17).
func TestHAProxyPrefix_S17_Quotes(t *testing.T) {
	all := activeAndSpare(t)
	options, policy := prefix(t, all)
	p := newPair(t, options, policy, all)
	require.Equal(t, seen{"active", []string{`SID=ABC"`}}, ask(t, p.haproxy, "/", `SID="s9~ABC"`).seen)
	require.Equal(t, seen{"spare", []string{`SID="ABC"`}}, ask(t, p.stickylb, "/", `SID="s9~ABC"`).seen)
}

// In rewrite mode the application's value gives way to the server's, and the rest stays.
func TestHAProxyRewrite_Values(t *testing.T) {
	all := activeAndSpare(t)
	codec := &cookie.InsecureHAProxy{}
	require.NoError(t, codec.Store(values(all)))
	policy, err := stickiness.NewRewriteCookie(stickiness.RewriteCookieOptions{Cookie: "SRV", Codec: codec})
	require.NoError(t, err)
	p := newPair(t, "cookie SRV rewrite nocache", policy, all)
	for line, want := range map[string]string{
		"SRV=any; Path=/x; HttpOnly": "SRV=s9; Path=/x; HttpOnly",
		"SRV=x; Max-Age=0":           "SRV=s9; Max-Age=0",
		"other=any; Path=/":          "other=any; Path=/",
	} {
		for name, addr := range p.both() {
			a := ask(t, addr, setting(line), "SRV=s9")
			require.Equal(t, []string{want}, a.SetCookie, "%s at %s", line, name)
			require.Equal(t, seen{"spare", []string{"SRV=s9"}}, a.seen, "%s at %s", line, name)
		}
	}
}

// With preserve, the backend's own line passes, and nothing is inserted beside it.
func TestHAProxyPreserve_Values(t *testing.T) {
	all := activeAndSpare(t)
	codec := &cookie.InsecureHAProxy{}
	require.NoError(t, codec.Store(values(all)))
	policy, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Name: "SRV", Codec: codec, CORS: stickiness.CORSNever, Preserve: true})
	require.NoError(t, err)
	p := newPair(t, "cookie SRV insert indirect nocache preserve", policy, all)
	for _, line := range []string{"SRV=s9; Path=/", "SRV=; Path=/; Max-Age=0"} {
		for name, addr := range p.both() {
			for _, sent := range []string{"", "SRV=s9"} {
				require.Equal(t, []string{line}, ask(t, addr, setting(line), sent).SetCookie, "%s at %s, %q", line, name, sent)
			}
		}
	}
}
