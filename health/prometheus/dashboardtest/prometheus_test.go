package dashboardtest_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience limits each wait, on a slow machine too.
const patience = time.Minute

// A server is a Prometheus that scrapes one address, and runs until the test ends.
type server struct {
	url string
	at  string // the time for which queries are evaluated, as the API has it; now if empty
}

func startPrometheus(t *testing.T, scraped string) *server {
	t.Helper()
	path, err := exec.LookPath("prometheus")
	if err != nil && os.Getenv("CI") == "" {
		t.Skip("there is no prometheus here")
	}
	require.NoError(t, err)
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
global: {scrape_interval: 1s, scrape_timeout: 1s}
scrape_configs:
- {job_name: stickylb, static_configs: [{targets: [%q]}]}
`, scraped), 0o600))
	cmd := exec.Command(path, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address=127.0.0.1:0", "--log.level=info")
	said, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	address := make(chan string, 1)
	go func() {
		listening := regexp.MustCompile(`msg="Listening on" address=(\S+)`)
		for lines := bufio.NewScanner(said); lines.Scan(); {
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				address <- m[1]
				io.Copy(io.Discard, said)
			}
		}
		close(address)
	}()
	select {
	case a := <-address:
		require.NotEmpty(t, a, "prometheus has ended without listening")
		return &server{url: "http://" + a}
	case <-time.After(patience):
		require.Fail(t, "prometheus does not listen")
		return nil
	}
}

// A sample is one series of an answer.
type sample struct {
	Metric map[string]string
	Value  [2]any
}

func (s sample) number(t *testing.T) float64 {
	t.Helper()
	text, ok := s.Value[1].(string)
	require.True(t, ok, s)
	n, err := strconv.ParseFloat(text, 64)
	require.NoError(t, err)
	return n
}

// ask stores the answer of the API in data. It returns false while the server is not ready.
func (s *server) ask(t *testing.T, path string, query url.Values, data any) bool {
	t.Helper()
	res, err := http.Get(s.url + path + "?" + query.Encode())
	if err != nil {
		return false
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusServiceUnavailable {
		return false
	}
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	require.NoError(t, json.NewDecoder(res.Body).Decode(&answer))
	require.Equal(t, "success", answer.Status, "%s: %s", query, answer.Error)
	require.NoError(t, json.Unmarshal(answer.Data, data))
	return true
}

// query returns the series of expr, now or at the server's time.
func (s *server) query(t *testing.T, expr string) []sample {
	t.Helper()
	var data struct{ Result []sample }
	query := url.Values{"query": {expr}}
	if s.at != "" {
		query.Set("time", s.at)
	}
	s.ask(t, "/api/v1/query", query, &data)
	return data.Result
}

// stop makes all later queries use the time of the last scrape that succeeded. Prometheus has no
// series after a scrape that failed, for example because the machine was busy.
func (s *server) stop(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		last := s.query(t, "timestamp(up == 1)")
		if len(last) == 1 {
			s.at = last[0].Value[1].(string)
		}
		return s.at != ""
	}, patience, 50*time.Millisecond)
}

// sum returns the sum of the series of expr, or NaN if there are none.
func (s *server) sum(t *testing.T, expr string) float64 {
	t.Helper()
	all := s.query(t, "sum("+expr+")")
	if len(all) == 0 {
		return math.NaN()
	}
	return all[0].number(t)
}

// until waits until expr is want.
func (s *server) until(t *testing.T, want float64, expr string) {
	t.Helper()
	require.Eventually(t, func() bool { return s.sum(t, expr) == want }, patience, 50*time.Millisecond, "%s is not %v", expr, want)
}
