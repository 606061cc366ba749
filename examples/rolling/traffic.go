package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/cookiejar"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/websocket"

	"github.com/stickylb/stickylb/balancer"
)

const (
	patience      = 30 * time.Second // for each answer
	maxPayload    = 4 << 10          // octets
	sessionLength = 100              // requests, at most
	pause         = 40 * time.Millisecond
	maxReasons    = 10
)

// A traffic is the clients of the balancer, and what they have seen.
type traffic struct {
	addr   string
	serves func(id string) bool // reports whether a target still serves its sessions

	requests, sessions, moved, sockets, asked, lost atomic.Int64

	mu      sync.Mutex
	answers map[string]int64 // by target
	reasons []string         // of the first losses
}

// run runs so many clients with sessions, and as many with WebSockets, until ctx ends. Everything
// that they have begun ends by itself.
func (t *traffic) run(ctx context.Context, clients int) {
	var work sync.WaitGroup
	for range clients {
		work.Go(func() { t.visit(ctx) })
		work.Go(func() { t.chat(ctx) })
	}
	work.Wait()
}

// meet waits until one of the targets has answered a request. Before that, nothing could get lost
// there.
func (t *traffic) meet(ctx context.Context, targets []balancer.Target) error {
	for ctx.Err() == nil {
		for _, target := range targets {
			if t.answersOf(target.ID) > 0 {
				return nil
			}
		}
		sleep(ctx, 10*time.Millisecond)
	}
	return ctx.Err()
}

// err returns an error if something was lost.
func (t *traffic) err() error {
	n := t.lost.Load()
	if n == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	all := fmt.Errorf("%d lost", n)
	for _, reason := range t.reasons {
		all = errors.Join(all, errors.New(reason))
	}
	return all
}

func (t *traffic) lose(format string, args ...any) {
	t.lost.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.reasons) < maxReasons {
		t.reasons = append(t.reasons, fmt.Sprintf(format, args...))
	}
}

func (t *traffic) answersOf(id string) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answers[id]
}

// between waits as a client does between two requests. It reports whether the client goes on.
func between(ctx context.Context) bool {
	sleep(ctx, mathrand.N(pause))
	return ctx.Err() == nil
}

// visit begins one session after the other.
func (t *traffic) visit(ctx context.Context) {
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for ctx.Err() == nil {
		jar, err := cookiejar.New(nil)
		if err != nil {
			t.lose("%v", err)
			return
		}
		t.sessions.Add(1)
		c := &http.Client{Transport: transport, Jar: jar, Timeout: patience}
		home := "" // the target of the session
		for n := 1 + mathrand.N(sessionLength); n > 0 && between(ctx); n-- {
			id, err := t.ask(c)
			switch {
			case err != nil:
				t.lose("a request: %v", err)
				continue // the session may be anywhere
			case home != "" && home != id && t.serves(home):
				t.lose("a session has moved from %s, which still serves it", home)
			case home != "" && home != id:
				t.moved.Add(1)
			}
			home = id
		}
	}
}

// ask sends a request, and returns the ID of the target that has answered it rightly.
func (t *traffic) ask(c *http.Client) (id string, err error) {
	t.requests.Add(1)
	body := payload()
	res, err := c.Post("http://"+t.addr+"/", "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(io.LimitReader(res.Body, maxPayload+1))
	id = res.Header.Get(targetHeader)
	switch {
	case err != nil:
		return "", fmt.Errorf("the answer of %s: %w", id, err)
	case res.StatusCode != http.StatusOK:
		return "", errors.New(res.Status)
	case !bytes.Equal(got, body):
		return "", fmt.Errorf("a wrong octet from %s", id)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.answers[id]++
	return id, nil
}

func payload() []byte {
	b := make([]byte, 1+mathrand.N(maxPayload))
	rand.Read(b)
	return b
}

// chat opens one WebSocket after the other. A client that is asked to leave comes back at once, and
// sends again what was not answered.
func (t *traffic) chat(ctx context.Context) {
	conf, err := websocket.NewConfig("ws://"+t.addr+"/chat", "http://"+t.addr)
	if err != nil {
		t.lose("%v", err)
		return
	}
	for message := payload(); between(ctx); {
		dial, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		ws, err := conf.DialContext(dial)
		cancel()
		if err != nil {
			t.lose("a WebSocket was refused: %v", err)
			continue
		}
		t.sockets.Add(1)
		if err := t.talk(ctx, ws, &message); err != nil {
			t.lose("a WebSocket: %v", err)
		}
	}
}

// errAsked is the end of a WebSocket whose client was asked to come again.
var errAsked = errors.New("asked to leave")

// talk sends messages and checks the echoes until ctx ends or the WebSocket does. Its error is nil
// if the client was asked to leave. message is the one that is not answered yet.
func (t *traffic) talk(ctx context.Context, ws *websocket.Conn, message *[]byte) error {
	echoes := make(chan []byte)
	over := make(chan error, 1)
	gone := make(chan struct{})
	var reading sync.WaitGroup
	defer reading.Wait()
	defer ws.Close()
	defer close(gone)
	reading.Go(func() {
		for {
			echo, err := receive(ws)
			if err != nil {
				over <- err
				return
			}
			select {
			case echoes <- echo:
			case <-gone:
				return
			}
		}
	})
	end := func(err error) error {
		if err != errAsked {
			return fmt.Errorf("cut without being asked to leave: %w", err)
		}
		t.asked.Add(1)
		return nil
	}
	for {
		ws.SetWriteDeadline(time.Now().Add(patience))
		if err := websocket.Message.Send(ws, *message); err != nil {
			select {
			case err = <-over: // what was read before says why
			case <-time.After(patience):
			}
			return end(err)
		}
		select {
		case err := <-over:
			return end(err)
		case <-time.After(patience):
			return errors.New("no echo")
		case echo := <-echoes:
			if !bytes.Equal(echo, *message) {
				return errors.New("a wrong octet")
			}
		}
		*message = payload()
		select {
		case err := <-over:
			return end(err)
		case <-ctx.Done():
			select {
			case err := <-over: // it ended before
				return end(err)
			default:
				return nil
			}
		case <-time.After(mathrand.N(pause)):
		}
	}
}

// receive returns the next message. It answers a close frame. If that has the code 1012, receive
// returns errAsked.
func receive(ws *websocket.Conn) ([]byte, error) {
	f, err := ws.NewFrameReader()
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPayload+1))
	if err != nil || f.PayloadType() != websocket.CloseFrame {
		return b, err
	}
	if len(b) < 2 {
		return nil, errors.New("a close frame without a code")
	}
	code := binary.BigEndian.Uint16(b)
	ws.WriteClose(int(code))
	if code != 1012 { // service restart
		return nil, fmt.Errorf("a close frame with the code %d", code)
	}
	return nil, errAsked
}
