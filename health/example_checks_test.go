package health_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"time"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// speaking starts a server of some protocol that serves one connection.
func speaking(serve func(net.Conn)) balancer.Target {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		defer l.Close()
		if conn, err := l.Accept(); err == nil {
			serve(conn)
			io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	return balancer.Target{URL: &url.URL{Scheme: "tcp", Host: l.Addr().String()}}
}

// check runs a check with a time limit, as a Registry does at every Interval.
func check(c health.Check, t balancer.Target) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	fmt.Println(c.Check(ctx, t))
}

// Redis answers a PING, unless it wants a password first.
func ExampleConversation() {
	ping := health.Conversation{Steps: []health.Step{
		{Send: "PING\r\n", Prefix: "+PONG\r\n"},
	}}
	check(ping, speaking(func(redis net.Conn) {
		play(redis, "<PING\r\n", "+PONG\r\n")
	}))
	check(ping, speaking(func(redis net.Conn) {
		play(redis, "<PING\r\n", "-NOAUTH Authentication required.\r\n")
	}))
	// Output:
	// <nil>
	// health: step 1: the target says "-NOAUTH Authentication required.\r\n", expected "+PONG\r\n"
}

// A mail server greets with one line or with several. The check ends with QUIT.
func ExampleConversation_sMTP() {
	greeting := health.Conversation{Steps: []health.Step{
		{Match: regexp.MustCompile(`^(220-.*\r\n)*220 .*\r\n`)},
		{Send: "QUIT\r\n", Prefix: "221 "},
	}}
	check(greeting, speaking(func(mail net.Conn) {
		play(mail, "220-mail.example ESMTP\r\n220 ready\r\n", "<QUIT\r\n", "221 2.0.0 Bye\r\n")
	}))
	check(greeting, speaking(func(mail net.Conn) {
		play(mail, "421 too busy\r\n")
		mail.Close()
	}))
	// Output:
	// <nil>
	// health: step 1: connection closed by the target, the target has said "421 too busy\r\n"
}

// MySQL and MariaDB greet with a packet of version 10. A client that leaves then counts as a failed
// login, and the server may block its address after several of them (max_connect_errors). So this
// check logs in, as a user without a password and without any right:
//
//	CREATE USER check_user@'10.0.0.%';
func ExampleConversation_mySQL() {
	greeting := health.Conversation{Steps: []health.Step{
		{Match: regexp.MustCompile(`(?s)^...\x00\x0a.*_password\x00`)},
		{Send: mySQLLogin("check_user"), Match: regexp.MustCompile(`(?s)^...\x02\x00`)},
		{Send: "\x01\x00\x00\x00\x01"}, // COM_QUIT
	}}
	check(greeting, speaking(func(mysql net.Conn) {
		play(mysql, "\x4a\x00\x00\x00\x0a10.11.6-MariaDB\x00", "...mysql_native_password\x00",
			"<"+mySQLLogin("check_user"), "\x07\x00\x00\x02\x00\x00\x00\x02\x00\x00\x00")
	}))
	check(greeting, speaking(func(mysql net.Conn) {
		play(mysql, "\x17\x00\x00\x00\xff\x10\x04Too many connections")
		mysql.Close()
	}))
	// Output:
	// <nil>
	// health: step 1: connection closed by the target, the target has said "\x17\x00\x00\x00\xff\x10\x04Too many connections"
}

// mySQLLogin returns a packet of the kind HandshakeResponse41, for a user without a password.
func mySQLLogin(user string) string {
	const protocol41, secureConnection = 1 << 9, 1 << 15
	body := binary.LittleEndian.AppendUint32(nil, protocol41|secureConnection)
	body = binary.LittleEndian.AppendUint32(body, 1<<24-1) // the largest packet
	body = append(body, 33)                                // UTF-8
	body = append(body, make([]byte, 23)...)
	body = append(body, user+"\x00\x00"...)
	const second = 1 // packet of the conversation
	return string(binary.LittleEndian.AppendUint32(nil, uint32(len(body))|second<<24)) + string(body)
}

// A server of gRPC tells the health of its services.
func ExampleGRPC() {
	answer := func(status byte) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/grpc")
			w.Write([]byte{0, 0, 0, 0, 2, 0x08, status})
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		}
	}
	const serving, notServing = 1, 2
	for _, status := range []byte{serving, notServing} {
		server := httptest.NewUnstartedServer(answer(status))
		server.Config.Protocols = new(http.Protocols)
		server.Config.Protocols.SetUnencryptedHTTP2(true)
		server.Start()
		defer server.Close()
		check(health.GRPC{Service: "shop.Orders"}, balancer.Target{
			URL: &url.URL{Scheme: "h2c", Host: server.Listener.Addr().String()},
		})
	}
	// Output:
	// <nil>
	// health: the health service says NOT_SERVING
}
