package health_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// If the name of a foreign page resolves to this server, the page has the same origin for a
// browser: Host and Origin agree. It must neither press a button nor read the state.
func TestPage_AnswersToItsHostsOnly(t *testing.T) {
	tests := map[string]struct {
		host  string
		local string // where the connection came to; empty: not a TCP connection
		hosts []string
		want  bool
	}{
		"loopback name":                {host: "localhost", want: true},
		"with a port":                  {host: "localhost:9000", want: true},
		"in capitals":                  {host: "LocalHost:9000", want: true},
		"fully qualified":              {host: "localhost.:9000", want: true},
		"below localhost":              {host: "admin.localhost", want: true},
		"IPv4 loopback":                {host: "127.0.0.1:9000", want: true},
		"another IPv4 loopback":        {host: "127.1.2.3", want: true},
		"IPv6 loopback":                {host: "[::1]:9000", want: true},
		"IPv6 loopback without a port": {host: "[::1]", want: true},
		"the connection's address":     {host: "10.0.0.7:9000", local: "10.0.0.7", want: true},
		"mapped":                       {host: "10.0.0.7", local: "::ffff:10.0.0.7", want: true},
		"IPv6":                         {host: "[fd00::7]:9000", local: "fd00::7", want: true},
		"another address":              {host: "10.0.0.8", local: "10.0.0.7"},
		"an address, not over TCP":     {host: "10.0.0.7"},
		"foreign":                      {host: "evil.example:9000", local: "127.0.0.1"},
		"begins like ours":             {host: "localhost.evil.example", local: "127.0.0.1"},
		"ends like ours":               {host: "evillocalhost", local: "127.0.0.1"},
		"an address in a name":         {host: "127.0.0.1.evil.example", local: "127.0.0.1"},
		"user information":             {host: "localhost@evil.example", local: "127.0.0.1"},
		"empty":                        {host: "", local: "127.0.0.1"},
		"named":                        {host: "Admin.Example:443", hosts: []string{"admin.example"}, want: true},
		"named with a dot":             {host: "admin.example", hosts: []string{"ADMIN.example."}, want: true},
		"named with a port":            {host: "admin.example:8443", hosts: []string{"admin.example:9000"}, want: true},
		"an address in brackets":       {host: "[fd00::8]:9000", hosts: []string{"[FD00:0::8]"}, want: true},
		"an address in another form":   {host: "[fd00:0:0::8]", hosts: []string{"fd00::8"}, want: true},
		"a mapped address":             {host: "10.0.0.8", hosts: []string{"::ffff:10.0.0.8"}, want: true},
		"mapped loopback":              {host: "[::ffff:127.0.0.1]:9000", want: true},
		"every address":                {host: "0.0.0.0:9000", local: "127.0.0.1"},
		"user information in front":    {host: "evil.example@localhost", local: "127.0.0.1"},
		"a number":                     {host: "2130706433", local: "127.0.0.1"},
		"below a named one":            {host: "x.admin.example", hosts: []string{"admin.example"}},
		"loopback beside a named one":  {host: "localhost", hosts: []string{"admin.example"}, want: true},
		"an empty name":                {host: "", hosts: []string{"admin.example"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			pool := newPool(t, target("a"))
			h := (&health.Page{Registries: []*health.Registry{{Pool: pool}}, Hosts: tt.hosts}).Handler()
			ask := func(method, body string) *httptest.ResponseRecorder {
				req := httptest.NewRequest(method, "/", strings.NewReader(body))
				req.Host = tt.host
				req.Header.Set("Origin", "http://"+tt.host)
				req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				if tt.local != "" {
					local := &net.TCPAddr{IP: net.ParseIP(tt.local), Port: 9000}
					req = req.WithContext(context.WithValue(req.Context(), http.LocalAddrContextKey, local))
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, req)
				return w
			}
			get := ask("GET", "")
			post := ask("POST", "target=a&action=down")
			down := member(t, pool, "a").State().Admin == balancer.Down
			require.Equal(t, tt.want, down)
			if tt.want {
				require.Equal(t, http.StatusOK, get.Code)
				require.Equal(t, http.StatusOK, post.Code)
				return
			}
			require.Equal(t, http.StatusMisdirectedRequest, get.Code)
			require.NotContains(t, get.Body.String(), `"targets"`)
			require.Equal(t, http.StatusMisdirectedRequest, post.Code)
		})
	}
}

// Over a real connection, the page answers to the address of the connection and to no foreign name.
func TestPage_AnswersToTheAddressOfTheConnection(t *testing.T) {
	s := httptest.NewServer(pageOf(&health.Registry{Pool: newPool(t, target("a"))}).Handler())
	t.Cleanup(s.Close)
	for host, want := range map[string]int{"": 200, "evil.example": 421} {
		req, err := http.NewRequest("GET", s.URL, nil)
		require.NoError(t, err)
		req.Host = host
		res, err := s.Client().Do(req)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, want, res.StatusCode)
	}
}
