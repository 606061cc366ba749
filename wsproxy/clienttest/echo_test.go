package clienttest_test

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/coder/websocket"
)

// A closing is how a WebSocket ended, by one of its sides.
type closing struct {
	Code   int
	Reason string
}

func closingOf(err error) closing {
	c := closing{Code: int(websocket.CloseStatus(err))}
	if ce, ok := closeError(err); ok {
		c.Reason = ce.Reason
	}
	return c
}

// echoing is a server of WebSockets made of coder/websocket. At /echo it sends back what it gets, at /close it says
// hello and closes with the query's code and reason, at /ping it pings, and says "ponged" when the pong has come. The
// closings of those who were at /echo go to closed.
func echoing(mode websocket.CompressionMode, closed chan<- closing) http.Handler {
	open := func(play func(ctx context.Context, c *websocket.Conn, r *http.Request)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			c, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: mode, Subprotocols: []string{"v2.echo"}})
			if err != nil {
				return
			}
			defer c.CloseNow()
			c.SetReadLimit(2 << 20)
			ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
			defer cancel()
			play(ctx, c, r)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", open(func(ctx context.Context, c *websocket.Conn, _ *http.Request) {
		for {
			kind, message, err := c.Read(ctx)
			if err != nil {
				closed <- closingOf(err)
				return
			}
			if c.Write(ctx, kind, message) != nil {
				return
			}
		}
	}))
	mux.HandleFunc("/close", open(func(ctx context.Context, c *websocket.Conn, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		c.Write(ctx, websocket.MessageText, []byte("hello"))
		c.Close(websocket.StatusCode(code), r.FormValue("reason"))
	}))
	mux.HandleFunc("/ping", open(func(ctx context.Context, c *websocket.Conn, _ *http.Request) {
		reading := c.CloseRead(ctx)
		if c.Ping(ctx) == nil {
			c.Write(ctx, websocket.MessageText, []byte("ponged"))
		}
		select {
		case <-reading.Done():
		case <-time.After(patience):
		}
	}))
	return mux
}
