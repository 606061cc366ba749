package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestControl_Guards(t *testing.T) {
	p := start(t)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(p.http, "http://"))
	require.NoError(t, err)
	tests := map[string]struct {
		method, host string
		header       [2]string
		want         int
	}{
		"a person's program":  {method: "POST", want: http.StatusNoContent},
		"the page":            {method: "POST", header: [2]string{"Sec-Fetch-Site", "same-origin"}, want: http.StatusNoContent},
		"by name":             {method: "POST", host: "localhost:" + port, want: http.StatusNoContent},
		"by IPv6":             {method: "POST", host: "[::1]:" + port, want: http.StatusNoContent},
		"without a port":      {method: "POST", host: "localhost", want: http.StatusNoContent},
		"a page of elsewhere": {method: "POST", header: [2]string{"Sec-Fetch-Site", "cross-site"}, want: http.StatusForbidden},
		"of another port":     {method: "POST", header: [2]string{"Sec-Fetch-Site", "same-site"}, want: http.StatusForbidden},
		"an older browser":    {method: "POST", header: [2]string{"Origin", "http://elsewhere.example"}, want: http.StatusForbidden},
		"a name of elsewhere": {method: "POST", host: "elsewhere.example:" + port, want: http.StatusForbidden},
		"another address":     {method: "POST", host: "192.0.2.1:" + port, want: http.StatusForbidden},
		"by GET":              {method: "GET", want: http.StatusMethodNotAllowed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), tt.method, p.http+"/demo/backends/app-1/drain", nil)
			require.NoError(t, err)
			r.Host = tt.host
			if tt.header[0] != "" {
				r.Header.Set(tt.header[0], tt.header[1])
			}
			defer p.press(t, "backends/app-1/ready")
			res, err := http.DefaultClient.Do(r)
			require.NoError(t, err)
			res.Body.Close()
			require.Equal(t, tt.want, res.StatusCode)
			require.Equal(t, tt.want == http.StatusNoContent, p.shows(t, "app-1").Admin == "draining")
		})
	}
}

func TestControl_OtherMachines(t *testing.T) {
	reached := false
	h := localOnly(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	for peer, local := range map[string]bool{
		"127.0.0.1:4711": true, "127.8.9.10:1": true, "[::1]:4711": true, "[::ffff:127.0.0.1]:4711": true,
		"192.0.2.1:4711": false, "[2001:db8::1]:4711": false, "@": false, "": false,
	} {
		reached = false
		r := httptest.NewRequest(http.MethodGet, "http://localhost/demo/state", nil)
		r.RemoteAddr = peer
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		require.Equal(t, local, reached, peer)
		require.Equal(t, !local, w.Code == http.StatusForbidden, peer)
	}
}

func TestControl_UnknownBackend(t *testing.T) {
	p := start(t)
	for _, action := range []string{"drain", "ready", "stop", "start"} {
		res, err := http.Post(p.http+"/demo/backends/app-4/"+action, "", nil)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, http.StatusNotFound, res.StatusCode)
	}
}

func TestControl_StartFails(t *testing.T) {
	p := start(t)
	_, addr, _ := strings.Cut(p.lines[0], "http://")
	p.press(t, "backends/app-1/stop")
	p.press(t, "backends/app-1/stop") // is no error
	var taken net.Listener
	require.Eventually(t, func() (free bool) { // others may have the port for a moment
		var err error
		taken, err = net.Listen("tcp", addr)
		return err == nil
	}, patience, glance)
	res, err := http.Post(p.http+"/demo/backends/app-1/start", "", nil)
	require.NoError(t, err)
	res.Body.Close()
	require.Equal(t, http.StatusInternalServerError, res.StatusCode)
	require.False(t, p.shows(t, "app-1").Running)
	require.NoError(t, taken.Close())
	p.restart(t, "app-1")
	p.press(t, "backends/app-1/start")
	require.True(t, p.shows(t, "app-1").Running)
}

func TestControl_OnlyWithEmbeddedBackends(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Asked", r.URL.Path)
	}))
	defer backend.Close()
	p := start(t, "-target", backend.URL)
	res, _ := newVisitor(t).get(t, p.http+"/demo/state")
	require.Equal(t, "/demo/state", res.Header.Get("Asked"))
}
