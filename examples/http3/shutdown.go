package main

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// An overQUIC is a server of HTTP/3 that knows how many requests it has. The Shutdown of quic-go's
// waits until the clients close their connections. Browsers keep them, although they are told that
// there will be no more answers.
type overQUIC struct {
	http3.Server
	requests atomic.Int64
}

// count counts the requests of a handler.
func (s *overQUIC) count(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		defer s.requests.Add(-1)
		next.ServeHTTP(w, r)
	})
}

// Shutdown accepts no more requests, and closes the connections once there has been none for a
// second, in which the ends of the last answers arrive. If ctx ends first, it closes the
// connections then and returns the error of ctx.
func (s *overQUIC) Shutdown(ctx context.Context) error {
	quiet, cut := context.WithCancel(ctx)
	defer cut()
	go func() {
		ticker := time.NewTicker(100 * time.Millisecond)
		defer ticker.Stop()
		for n := 0; n < 10; {
			select {
			case <-quiet.Done():
				return
			case <-ticker.C:
			}
			if n++; s.requests.Load() > 0 {
				n = 0
			}
		}
		cut()
	}()
	if err := s.Server.Shutdown(quiet); quiet.Err() == nil {
		return err
	}
	return ctx.Err()
}
