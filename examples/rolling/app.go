package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"

	"golang.org/x/net/websocket"
)

// targetHeader has the ID of the target that answers.
const targetHeader = "Target"

// An app is the application, which runs on each target. It sends back what it gets, by HTTP and
// over WebSockets.
type app struct {
	id, addr string
	wrong    bool // it changes an octet
	server   *http.Server
	life     context.Context
	end      context.CancelFunc
	work     sync.WaitGroup // the server and the WebSockets
}

type connKey struct{}

// newApp starts an app on a free port.
func newApp(id string, wrong bool) (*app, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a := &app{id: id, addr: listener.Addr().String(), wrong: wrong}
	a.life, a.end = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /{$}", a.echo)
	mux.Handle("GET /chat", websocket.Handler(a.chat))
	a.server = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: patience,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
	}
	a.work.Go(func() { a.server.Serve(listener) })
	return a, nil
}

// stop ends the app at once, with everything that is in flight.
func (a *app) stop() {
	a.server.Close()
	a.end()
	a.work.Wait()
}

// echo answers with the request's body.
func (a *app) echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPayload))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set(targetHeader, a.id)
	w.Write(a.spoil(body))
}

// chat sends each message back.
func (a *app) chat(ws *websocket.Conn) {
	a.work.Add(1)
	defer a.work.Done()
	conn := ws.Request().Context().Value(connKey{}).(net.Conn)
	defer context.AfterFunc(a.life, func() { conn.Close() })() // as a process that dies does, without a close frame
	ws.MaxPayloadBytes = maxPayload
	for {
		var message []byte
		if websocket.Message.Receive(ws, &message) != nil || websocket.Message.Send(ws, a.spoil(message)) != nil {
			return
		}
	}
}

func (a *app) spoil(b []byte) []byte {
	if a.wrong && len(b) > 0 {
		b[0] ^= 1
	}
	return b
}
