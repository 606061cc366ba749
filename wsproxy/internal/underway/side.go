package underway

import (
	"net"

	"github.com/stickylb/stickylb/wsproxy/internal/tunnel"
	"github.com/stickylb/stickylb/wsproxy/proxyproto"
)

// ClientSide is the client's end of a tunnel, of which early was read already. Once a PROXY header has been read, and
// what came with it, the connection below does: that one can be parked.
func ClientSide(conn net.Conn, early []byte) tunnel.Side {
	side := tunnel.Side{Conn: conn, Early: early}
	told, ok := conn.(*proxyproto.Conn)
	if !ok {
		return side
	}
	below, bare := told.Unwrap()
	if !bare { // then there is something to read at once
		rest := make([]byte, 4<<10)
		n, _ := told.Read(rest)
		side.Early = append(side.Early, rest[:n]...)
		below, bare = told.Unwrap()
	}
	if bare {
		side.Conn = below
	}
	return side
}
