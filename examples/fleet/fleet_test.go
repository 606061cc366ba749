package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	patience = time.Minute           // for what must happen
	glance   = 20 * time.Millisecond // between two looks
)

// program returns the path of a program. Without it the test is skipped, or fails where CI is set.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") != "" {
			require.FailNow(t, "not installed", name)
		}
		t.Skipf("%s is not installed", name)
	}
	return path
}

// A site is the program's, which runs as a user would run it.
type site struct {
	t   *testing.T
	url string
}

// dir has the program. It is set by TestMain.
var dir string

func TestMain(m *testing.M) {
	var err error
	if dir, err = os.MkdirTemp("", "fleet-test"); err != nil {
		panic(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// built builds the program, once.
var built = sync.OnceValues(func() (path string, err error) {
	path = filepath.Join(dir, "fleet")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// start runs the program until the test ends, and then requires that it has ended all it started.
func start(t *testing.T) *site {
	t.Helper()
	program(t, "redis-server")
	path, err := built()
	require.NoError(t, err)
	cmd := exec.Command(path, "-listen", "127.0.0.1:0")
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &site{t: t}
	out := bufio.NewReader(stdout)
	line, err := out.ReadString('\n')
	p.url = strings.TrimSpace(strings.TrimPrefix(line, "page at "))
	t.Cleanup(func() {
		running := p.processes()
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		io.Copy(io.Discard, out)
		require.NoError(t, cmd.Wait())
		for name, pid := range running {
			if pid != 0 {
				require.NoDirExists(t, filepath.Join("/proc", strconv.Itoa(pid)), "%s was left", name)
			}
		}
	})
	require.NoError(t, err)
	require.Contains(t, line, "page at http://127.0.0.1:")
	return p
}

// do sends a request and returns the answer's status and body.
func (p *site) do(method, path string) (status int, body []byte) {
	p.t.Helper()
	r, err := http.NewRequest(method, p.url+path, nil)
	require.NoError(p.t, err)
	res, err := http.DefaultClient.Do(r)
	require.NoError(p.t, err)
	defer res.Body.Close()
	body, err = io.ReadAll(res.Body)
	require.NoError(p.t, err)
	return res.StatusCode, body
}

// press does what a button of the page does.
func (p *site) press(name, action string) {
	p.t.Helper()
	status, body := p.do(http.MethodPost, "/processes/"+name+"/"+action)
	require.Equal(p.t, http.StatusNoContent, status, string(body))
}

func (p *site) processes() map[string]int {
	p.t.Helper()
	_, body := p.do(http.MethodGet, "/processes")
	var all []process
	require.NoError(p.t, json.Unmarshal(body, &all))
	pids := make(map[string]int)
	for _, one := range all {
		pids[one.Name] = one.PID
	}
	return pids
}

func (p *site) visit(who string) (v visit) {
	p.t.Helper()
	status, body := p.do(http.MethodPost, "/visit/"+who)
	require.Equal(p.t, http.StatusOK, status, string(body))
	require.NoError(p.t, json.Unmarshal(body, &v))
	return v
}

// settled visits until the session has gone on through all three balancers, and returns the last
// visit. The first requests may find a balancer still busy with its connections to Redis.
func (p *site) settled(who string) (last visit) {
	p.t.Helper()
	same := 0
	require.Eventually(p.t, func() bool {
		v := p.visit(who)
		if same++; v.Session != last.Session {
			same = 0
		}
		last = v
		return same == 6
	}, patience, glance)
	return last
}

// stays requires that n more visits continue the session, and returns the balancers that answered.
func (p *site) stays(who string, from visit, n int) map[string]int {
	p.t.Helper()
	through := make(map[string]int)
	for i := range n {
		v := p.visit(who)
		require.Equal(p.t, from.Session, v.Session, "%v after %v", v, from)
		require.Equal(p.t, from.Backend, v.Backend)
		require.Equal(p.t, from.Visits+1+i, v.Visits)
		through[v.Balancer]++
	}
	return through
}

// The sessions of both visitors survive the end of a balancer and of Redis. The sessions of a
// backend end with it.
func TestFleet(t *testing.T) {
	p := start(t)
	status, body := p.do(http.MethodGet, "/")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, string(body), "<title>A fleet of balancers</title>")
	require.Len(t, p.processes(), 7)

	for _, who := range []string{"browser", "program"} {
		seen := p.settled(who)
		require.Equal(t, map[string]int{"lb-1": 2, "lb-2": 2, "lb-3": 2}, p.stays(who, seen, 6))
		seen.Visits += 6

		p.press("lb-2", "kill")
		require.Zero(t, p.processes()["lb-2"])
		through := p.stays(who, seen, 6)
		require.Len(t, through, 2)
		require.NotContains(t, through, "lb-2")
		seen.Visits += 6
		p.press("lb-2", "start")

		seen = p.settled(who)
		p.press("redis", "kill")
		require.Len(t, p.stays(who, seen, 6), 3)
		p.press("redis", "start")
		seen.Visits += 6
		require.Len(t, p.stays(who, seen, 6), 3)

		p.press(seen.Backend, "kill")
		moved := p.settled(who)
		require.NotEqual(t, seen.Backend, moved.Backend)
		require.NotEqual(t, seen.Session, moved.Session)
		p.press(seen.Backend, "start")
		p.stays(who, moved, 6)
	}
}

// Only requests of this machine's own page may press buttons.
func TestFleet_RefusesOthers(t *testing.T) {
	p := start(t)
	for status, header := range map[int]http.Header{
		http.StatusForbidden:          {"Sec-Fetch-Site": {"cross-site"}},
		http.StatusMisdirectedRequest: {"Host": {"evil.example"}},
	} {
		r, err := http.NewRequest(http.MethodPost, p.url+"/processes/redis/kill", nil)
		require.NoError(t, err)
		r.Header, r.Host = header, header.Get("Host")
		res, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, status, res.StatusCode)
	}
	require.NotZero(t, p.processes()["redis"])
	for _, path := range []string{"/processes/other/kill", "/processes/redis/other", "/visit/other"} {
		status, _ := p.do(http.MethodPost, path)
		require.Equal(t, http.StatusNotFound, status, path)
	}
}

// Without redis-server, the error says what to do. Other addresses than loopback ones are refused.
func TestFleet_SaysWhatIsWrong(t *testing.T) {
	path, err := built()
	require.NoError(t, err)
	t.Setenv("PATH", t.TempDir())
	for said, flags := range map[string][]string{
		"redis-server is not installed": nil,
		"not a loopback address":        {"-listen", "0.0.0.0:0"},
		"unexpected argument":           {"more"},
	} {
		out, err := exec.CommandContext(t.Context(), path, flags...).CombinedOutput()
		require.Error(t, err, said)
		require.Contains(t, string(out), said)
		require.Equal(t, 1, strings.Count(string(out), "\n"), string(out))
	}
}
