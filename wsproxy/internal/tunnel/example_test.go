package tunnel_test

import (
	"fmt"
	"io"
	"net"
	"time"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
)

func ExampleEngine_Start() {
	client, hijacked := net.Pipe() // what http.ResponseController.Hijack gave
	backend, dialed := net.Pipe()  // what the backend switched over

	var e tunnel.Engine
	ended := make(chan tunnel.End)
	t := e.Start(
		tunnel.Side{Conn: hijacked, Early: []byte("sent with the request, ")},
		tunnel.Side{Conn: dialed},
		tunnel.Options{
			Idle:   time.Hour,
			Linger: 30 * time.Second,
			Done:   func(end tunnel.End) { ended <- end },
		},
	)

	go io.WriteString(client, "sent later")
	got := make([]byte, 33)
	io.ReadFull(backend, got)
	fmt.Printf("%s\n", got)

	t.Close(tunnel.Closed)
	end := <-ended
	fmt.Println(end.By, end.FromClient, end.FromBackend, end.Err)
	// Output:
	// sent with the request, sent later
	// closed 33 0 <nil>
}
