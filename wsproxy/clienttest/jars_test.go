package clienttest_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/stickiness"
)

// A lineType is a way in which applications set and delete their session's cookie.
type lineType struct {
	name   string
	app    string // the cookie's name
	scheme string
	base   string // directory of the pages
	login  []string
	logout []string
}

// lineTypes are the ways that are tried. {id} is another ID at each login, {host} the host and
// {soon} a date.
var lineTypes = []lineType{
	plainLine("plain", "SID={id}; Path=/", "SID=; Path=/; Max-Age=0"),
	plainLine("no Path", "SID={id}", "SID=; Max-Age=0"),
	plainLine("Max-Age only", "SID={id}; Path=/; Max-Age=3600", "SID=; Path=/; Max-Age=0"),
	plainLine("Expires only", "SID={id}; Path=/; Expires={soon}", "SID=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT"),
	plainLine("both", "SID={id}; Path=/; Max-Age=3600; Expires={soon}", "SID=; Path=/; Max-Age=0; Expires=Thu, 01-Jan-1970 00:00:10 GMT"),
	plainLine("quoted", `SID="{id}"; Path=/`, `SID=""; Path=/; Max-Age=0`),
	plainLine("Version=1", `SID="{id}"; Version=1; Path=/; HttpOnly`, `SID=""; Version=1; Path=/; Max-Age=0`),
	{"two paths", "SID", "http", "/app",
		[]string{"SID={id}1; Path=/", "SID={id}2; Path=/app"},
		[]string{"SID=; Path=/; Max-Age=0", "SID=; Path=/app; Max-Age=0"}},
	{"domain and host-only", "SID", "http", "/app",
		[]string{"SID={id}1; Path=/; Domain={host}", "SID={id}2; Path=/"},
		[]string{"SID=; Path=/; Domain={host}; Max-Age=0", "SID=; Path=/; Max-Age=0"}},
	{"new one, old path deleted", "SID", "http", "/app",
		[]string{"SID={id}; Path=/", "SID=; Path=/app; Max-Age=0"},
		[]string{"SID=; Path=/; Max-Age=0", "SID=; Path=/app; Max-Age=0"}},
	{"old path deleted, new one", "SID", "http", "/app",
		[]string{"SID=; Path=/app; Max-Age=0", "SID={id}; Path=/"},
		[]string{"SID=; Path=/app; Max-Age=0", "SID=; Path=/; Max-Age=0"}},
	{"path with an underscore", "SID", "http", "/my_app",
		[]string{"SID={id}; Path=/my_app"}, []string{"SID=; Path=/my_app; Max-Age=0"}},
	{"partitioned", "SID", "https", "/app",
		[]string{"SID={id}; Path=/; Secure; SameSite=None; Partitioned"},
		[]string{"SID=; Path=/; Secure; SameSite=None; Partitioned; Max-Age=0"}},
	{"__Host-", "__Host-SID", "https", "/app",
		[]string{"__Host-SID={id}; Path=/; Secure; HttpOnly; SameSite=Lax"},
		[]string{"__Host-SID=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0"}},
}

func plainLine(name, login, logout string) lineType {
	return lineType{name, "SID", "http", "/app", []string{login}, []string{logout}}
}

// policies are what binds the clients, by name.
var policies = []struct {
	name string
	make func(t *testing.T, app string) stickiness.Policy
}{
	{"LBCookie", func(t *testing.T, _ string) stickiness.Policy {
		p, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{})
		require.NoError(t, err)
		return p
	}},
	{"LBCookie, an hour", func(t *testing.T, _ string) stickiness.Policy {
		p, err := stickiness.NewLBCookie(stickiness.LBCookieOptions{Period: time.Hour})
		require.NoError(t, err)
		return p
	}},
	{"AppCookie", func(t *testing.T, app string) stickiness.Policy {
		p, err := stickiness.NewAppCookie(stickiness.AppCookieOptions{Cookie: app})
		require.NoError(t, err)
		return p
	}},
	{"Learn", func(t *testing.T, app string) stickiness.Policy {
		p, err := stickiness.NewLearn(stickiness.LearnOptions{Store: &stickiness.MemoryStore{}, Cookie: app})
		require.NoError(t, err)
		return p
	}},
}

// durationBased are the types of lines that the policies without a look at the application's cookie
// are tried with.
var durationBased = []string{"plain", "Max-Age only", "Version=1", "partitioned"}

// incapable has what clients cannot do by themselves: a part of what goes wrong, and why.
var incapable = map[string]map[string]string{
	"curl": {"left behind the logout": "of two cookies that one response deletes, curl 7.88 keeps the first"},
}

// TestClients_S2_S11_S13_Stick has clients log in, ask on, lose their target, log out and log in
// elsewhere. The log has a table of who sticks. No session may be lost, but for what a client
// cannot do by itself.
func TestClients_S2_S11_S13_Stick(t *testing.T) {
	t.Parallel()
	farm := newFarm(t)
	for name, start := range map[string]func(*testing.T, *farmed) jarClient{
		"Go net/http/cookiejar":  startGoJars,
		"curl":                   startCurl,
		"Python http.cookiejar":  startPython,
		"Node tough-cookie":      startTough,
		"Java HttpClient":        startJava("HttpClient"),
		"Java HttpURLConnection": startJava("HttpURLConnection"),
		"Chromium":               startChromium,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := start(t, farm)
			var table strings.Builder
			excused := make(map[string]bool)
			for _, line := range lineTypes {
				fmt.Fprintf(&table, "\n%-26s", line.name)
				for _, policy := range policies {
					if strings.HasPrefix(policy.name, "LBCookie") && !slices.Contains(durationBased, line.name) {
						continue
					}
					wrong := farm.play(t, client, line, policy.make(t, line.app))
					if len(wrong) == 0 {
						fmt.Fprintf(&table, " %s sticks;", policy.name)
						continue
					}
					fmt.Fprintf(&table, " %s: %s;", policy.name, strings.Join(wrong, ", "))
					for _, what := range wrong {
						if part := excuse(name, what); part != "" {
							excused[part] = true
						} else {
							t.Errorf("%s, %s: %s", line.name, policy.name, what)
						}
					}
				}
			}
			t.Log(table.String())
			for part, reason := range incapable[name] {
				require.True(t, excused[part], "no exception any more: %s: %s", part, reason)
			}
		})
	}
}

// excuse returns the part of what went wrong that a client is known for.
func excuse(client, what string) string {
	for part := range incapable[client] {
		if strings.Contains(what, part) {
			return part
		}
	}
	return ""
}

// sessions counts the logins.
var sessions atomic.Int64

// play has one client live through a session. It returns what went wrong.
func (f *farmed) play(t *testing.T, client jarClient, line lineType, policy stickiness.Policy) []string {
	t.Helper()
	host, pool, remove := f.site(t, policy)
	defer remove()
	page := fmt.Sprintf("%s://%s%s/page", line.scheme, host, line.base)
	setting := func(lines []string) string {
		id := fmt.Sprintf("s%d", sessions.Add(1))
		soon := time.Now().Add(time.Hour).UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT")
		set := url.Values{}
		for _, l := range lines {
			set.Add("set", strings.NewReplacer("{id}", id, "{host}", host, "{soon}", soon).Replace(l))
		}
		return fmt.Sprintf("%s://%s%s/login?%s", line.scheme, host, line.base, set.Encode())
	}
	get := func(first string, pages int) []string {
		urls := slices.Repeat([]string{page}, pages)
		if first != "" {
			urls = append([]string{first}, urls...)
		}
		answers := client.get(t, host, urls...)
		require.Len(t, answers, len(urls))
		for _, a := range answers {
			require.NotEmpty(t, a)
		}
		return answers
	}
	var wrong []string
	// stays notes it if not all of the answers come from one target. It returns this target.
	stays := func(when string, answers []string) string {
		moved := 0
		for _, a := range answers {
			if a != answers[0] {
				moved++
			}
		}
		if moved > 0 {
			wrong = append(wrong, fmt.Sprintf("%d of %d lost %s", moved, len(answers)-1, when))
		}
		return answers[0]
	}
	down := func(id string) (up func()) {
		for _, m := range pool.Members() {
			if m.ID() == id {
				m.SetAdmin(balancer.Down)
				return func() { m.SetAdmin(balancer.Ready) }
			}
		}
		require.FailNow(t, "no such target", id)
		return nil
	}

	first := stays("behind the login", get(setting(line.login), 20))
	up := down(first)
	second := get("", 4)
	require.NotEqual(t, first, second[0])
	up()
	stays("behind the failover", append(second, get("", 4)...))

	get(setting(line.logout), 1)
	if left := f.cookies(host); left != "" && !isDuration(policy) {
		wrong = append(wrong, "left behind the logout: "+names(left))
	}
	up = down(second[0])
	third := get(setting(line.login), 1)
	up()
	require.NotEqual(t, second[0], third[0])
	stays("behind the second login", append(third, get("", 8)...))
	return wrong
}

func isDuration(p stickiness.Policy) bool {
	_, ok := p.(*stickiness.LBCookie)
	return ok
}

// names are those of the cookies in a Cookie line.
func names(line string) string {
	var all []string
	for pair := range strings.SplitSeq(line, ";") {
		name, _, _ := strings.Cut(strings.TrimSpace(pair), "=")
		all = append(all, name)
	}
	return strings.Join(all, " ")
}
