package main

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbsdk "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancing"
	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/examples/elb/internal/classic"
)

// lastOnes accepts one connection after the listener's server was shut down, and then no more.
type lastOnes struct {
	net.Listener
	conns chan net.Conn
}

func (l lastOnes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	default:
		return nil, net.ErrClosed
	}
}

// A connection that is accepted while its listener is deleted is closed, and nobody waits for it.
func TestTCPServer_AcceptsWhileItIsDeleted(t *testing.T) {
	t.Parallel()
	real, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer real.Close()
	world := &traffic{log: slog.New(slog.DiscardHandler)}
	f := world.newFront(&group{}, &classic.LoadBalancer{Name: lbName}, classic.Listener{Protocol: "TCP", LoadBalancerPort: 1, InstanceProtocol: "TCP", InstancePort: 1}, real)
	f.server.turn(turnSettings{idle: time.Minute}, nil)
	f.server.shutdown(context.Background())

	here, there := net.Pipe()
	defer here.Close()
	l := lastOnes{real, make(chan net.Conn, 1)}
	l.conns <- there
	served := make(chan struct{})
	go func() {
		f.server.serve(l)
		close(served)
	}()
	select {
	case <-served:
	case <-time.After(patience):
		t.Fatal("it still tries to pass the connection on")
	}
	_, err = here.Read(make([]byte, 1))
	require.Error(t, err)
}

// A load balancer may be described before its first health check is configured.
func TestStates_WhileItIsCreated(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	world := &traffic{log: log, instances: instances{"i-11111111": {id: "i-11111111"}}}
	world.groups = map[string]*group{lbName: {checks: newChecks(lbName, log)}}
	states := world.States(&classic.LoadBalancer{Name: lbName, Instances: []string{"i-11111111"}}, []string{"i-11111111"})
	require.Len(t, states, 1)
	require.Equal(t, outOfService, states[0].State)
	require.Contains(t, states[0].Description, "registration is in progress")
}

// saveForm sends the form of the page's second "Save changes".
func (s *program) saveForm(port int32, mode, period string) *httptest.ResponseRecorder {
	form := url.Values{"lb": {lbName}, "port": {strconv.Itoa(int(port))}, "mode": {mode}, "period": {period}}
	r := httptest.NewRequest("POST", savePath, strings.NewReader(form.Encode()))
	r.Host = s.elb.listener.Addr().String()
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	s.elb.server.Handler.ServeHTTP(w, r)
	return w
}

// A form that is sent several times at once is saved as if it were sent once.
func TestConsole_SentTwice(t *testing.T) {
	t.Parallel()
	s := start(t, "-state", filepath.Join(t.TempDir(), "state.json")) // so that saving takes a while
	port := freePort(t)
	s.create(listener("HTTP", port, "HTTP", 80))
	for period := 1; period <= 5; period++ {
		var sent sync.WaitGroup
		for range 4 {
			sent.Go(func() {
				if w := s.saveForm(port, byLB, strconv.Itoa(period)); w.Code != http.StatusSeeOther {
					t.Error(w.Code, w.Body.String())
				}
			})
		}
		sent.Wait()
	}
}

// A page may be older than what it shows.
func TestConsole_Stale(t *testing.T) {
	t.Parallel()
	s := start(t)
	port := freePort(t)
	s.create(listener("HTTP", port, "HTTP", 80))
	w := s.saveForm(port+1, disabled, "")
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.Contains(t, w.Body.String(), "ListenerNotFound")
	_, err := s.client.DeleteLoadBalancer(t.Context(), &elbsdk.DeleteLoadBalancerInput{LoadBalancerName: aws.String(lbName)})
	require.NoError(t, err)
	w = s.saveForm(port, disabled, "")
	require.Equal(t, http.StatusBadRequest, w.Code)
	require.Contains(t, w.Body.String(), "LoadBalancerNotFound")
}
