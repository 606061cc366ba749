package peertest_test

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"time"
)

// An exchange is what a client sends over one connection, and how a backend answers it. The same exchange is played
// through several proxies, and what comes of it is compared.
type exchange struct {
	name   string
	client []step           // over HTTP/1.1
	frames []frame          // over HTTP/2, in place of client
	server map[string]reply // of the backend, by request target; see [orderly] for every other target
	watch  []string         // fields that the backend notes of each request, and the client of each answer
	tls    bool             // played over TLS as well
}

// A step is one thing that a client or a backend does.
type step struct {
	do   action
	text string
}

type action uint8

const (
	doSend       action = iota
	doAwait             // until the client has received the text
	doAwaitAsked        // until the backend has received the text
	doHalfClose
	doHangUp // closes
	doReset
)

// send writes the text. Each line ends with CRLF.
func send(text string) step { return step{doSend, strings.ReplaceAll(text, "\n", "\r\n")} }

// raw writes the text as it is.
func raw(text string) step { return step{doSend, text} }

// clientGot waits until the client has received the text. A proxy that does not pass it on makes it wait in vain, for
// [quiet].
func clientGot(text string) step { return step{doAwait, text} }

// backendGot waits until the backend has received the text.
func backendGot(text string) step { return step{doAwaitAsked, text} }

var (
	halfClose = step{do: doHalfClose} // ends the sending side of the connection
	hangUp    = step{do: doHangUp}    // closes the connection
	reset     = step{do: doReset}     // closes the connection with a reset
)

// A reply is what a backend does for a request. Afterwards it waits for the next one, unless it has hung up.
type reply struct {
	early bool // does not wait for the body, which it reads and drops afterwards
	blind bool // as early, but reads nothing any more
	steps []step
}

// after returns an answer that waits for the whole request.
func after(steps ...step) reply { return reply{steps: steps} }

// early returns an answer that does not wait for the body.
func early(steps ...step) reply { return reply{early: true, steps: steps} }

// blind returns an answer that does not wait for the body, from a backend that never reads it.
func blind(steps ...step) reply { return reply{early: true, blind: true, steps: steps} }

// orderly is what backends answer unless the exchange says otherwise.
var orderly = after(send("HTTP/1.1 200 OK\nContent-Length: 3\n\n@ok"))

// probe is the request that tells whether the connection still serves requests.
const (
	probeTarget = "/probe"
	probe       = "GET " + probeTarget + " HTTP/1.1\nHost: app\nConnection: close\n\n"
	probed      = "@probed"
)

// quiet is how long nothing has to happen before the client or the backend believes that nothing will.
const quiet = 3 * time.Second

// An outcome is what came of an exchange.
type outcome struct {
	Answers    []string `json:"answers"`    // what the client received, one for each final or informational response
	Connection string   `json:"connection"` // what became of the client's connection
	Backend    []string `json:"backend"`    // the requests that the backend understood
}

// What becomes of a connection.
const (
	lives  = "lives"  // the next request is answered
	closes = "closes" // the proxy says that it closes it, or does
	waits  = "waits"  // neither happens: the proxy waits for the client
	tunnel = "tunnel" // it has switched protocols
)

func (o outcome) String() string {
	return fmt.Sprintf("answers %s, connection %s, backend %s", strings.Join(o.Answers, " | "), o.Connection,
		strings.Join(o.Backend, " | "))
}

// A sight is what one side of an exchange has received. Others may wait for something to come.
type sight struct {
	mu      sync.Mutex
	got     []byte
	ended   bool
	changed chan struct{}
}

func newSight() *sight { return &sight{changed: make(chan struct{})} }

// Write implements io.Writer.
func (s *sight) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, p...)
	s.tell()
	return len(p), nil
}

// end notes that nothing more will come.
func (s *sight) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.tell()
}

func (s *sight) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// await waits until ready has something that it waits for, until nothing more can come, or until nothing has come for
// the time of [quiet]. It reports whether it was ready.
func (s *sight) await(ready func(got []byte, ended bool) bool) bool {
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for {
		s.mu.Lock()
		got, ended, changed := s.got, s.ended, s.changed
		s.mu.Unlock()
		if ready(got, ended) {
			return true
		}
		if ended {
			return false
		}
		select {
		case <-changed:
			timer.Reset(quiet)
		case <-timer.C:
			return false
		}
	}
}

// has reports whether the text has come.
func (s *sight) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Contains(s.got, []byte(text))
}

// awaitText waits for a text to come.
func (s *sight) awaitText(text string) {
	s.await(func(got []byte, _ bool) bool { return bytes.Contains(got, []byte(text)) })
}

// awaitEnd waits until nothing more can come.
func (s *sight) awaitEnd() { s.await(func(_ []byte, ended bool) bool { return ended }) }
