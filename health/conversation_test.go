package health_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/balancer"
	"github.com/stickylb/stickylb/health"
)

// smtp is a conversation with a mail server.
var smtp = health.Conversation{Steps: []health.Step{
	{Match: regexp.MustCompile(`^(220-.*\r\n)*220 .*\r\n`)},
	{Send: "QUIT\r\n", Prefix: "221 "},
}}

// play sends and expects lines. A line that begins with "<" is expected from the client, any other
// line is sent.
func play(conn net.Conn, lines ...string) {
	for _, line := range lines {
		if heard, ok := strings.CutPrefix(line, "<"); ok {
			got := make([]byte, len(heard))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != heard {
				return
			}
			continue
		}
		io.WriteString(conn, line)
	}
}

// playing plays the lines and closes its side. Then it reads what the client still sends.
func playing(lines ...string) func(net.Conn) {
	return func(conn net.Conn) {
		play(conn, lines...)
		conn.(interface{ CloseWrite() error }).CloseWrite()
		io.Copy(io.Discard, conn)
	}
}

func TestConversation_B5_Steps(t *testing.T) {
	steps := func(s ...health.Step) health.Conversation { return health.Conversation{Steps: s} }
	long := strings.Repeat("x", 5000)
	tests := []struct {
		name  string
		check health.Conversation
		serve func(net.Conn)
		want  string
	}{
		{"Redis", steps(health.Step{Send: "PING\r\n", Prefix: "+PONG\r\n"}), playing("<PING\r\n", "+PONG\r\n"), ""},
		{"Redis wants a password", steps(health.Step{Send: "PING\r\n", Prefix: "+PONG\r\n"}), playing("<PING\r\n", "-NOAUTH Authentication required.\r\n"),
			`step 1: the target says "-NOAUTH Authentication required.\r\n", expected "+PONG\r\n"`},
		{"mail", smtp, playing("220 mail.example ESMTP\r\n", "<QUIT\r\n", "221 2.0.0 Bye\r\n"), ""},
		{"mail in many words", smtp, playing("220-mail.example ESMTP\r\n220-no spam\r\n", "220 ready\r\n", "<QUIT\r\n", "221 2.0.0 Bye\r\n"), ""},
		{"mail is full", smtp, playing("421 too many connections\r\n"), `step 1: connection closed by the target, the target has said "421 too many connections\r\n"`},
		{"says nothing, and closes", smtp, playing(), "step 1: connection closed by the target"},
		{"closes half way", smtp, playing("220 mail"), `step 1: connection closed by the target, the target has said "220 mail"`},
		{"closes before the second answer", smtp, playing("220 mail\r\n"), "step 2: connection closed by the target"},
		{"its half is closed, and all is said", smtp, playing("220 mail\r\n221 \r\n"), ""},
		{"resets", steps(health.Step{Send: "x", Contains: "y"}), func(c net.Conn) {
			play(c, "<x")
			if tcp, ok := c.(*net.TCPConn); ok {
				tcp.SetLinger(0)
			}
		}, "step 1: connection reset by the target"},

		{"octets", steps(health.Step{Send: "\x00\xff\n", Prefix: "\xff\x00"}), playing("<\x00\xff\n", "\xff\x00\x01"), ""},
		{"other octets", steps(health.Step{Prefix: "\xff\x00"}), playing("\xff\xfe\x00"), `step 1: the target says "\xff\xfe\x00", expected "\xff\x00"`},
		{"part of a prefix", steps(health.Step{Prefix: "+PONG\r\n"}), playing("+PON"), `step 1: connection closed by the target, the target has said "+PON"`},
		{"wrong from the first octet", steps(health.Step{Prefix: "+PONG\r\n"}), func(c net.Conn) { c.Write([]byte("-")); c.Read(make([]byte, 1)) },
			`step 1: the target says "-", expected "+PONG\r\n"`},
		{"contained", steps(health.Step{Contains: "role:master"}, health.Step{Prefix: "\r\n"}), playing("# Replication\r\nrole:master\r\n"), ""},
		{"not contained", steps(health.Step{Contains: "role:master", Limit: 15}), playing("role:slave and so on"), `step 1: the target says "role:slave and ", expected "role:master" within 15 octets`},
		{"contained at the limit", steps(health.Step{Contains: "end", Limit: 13}), playing("0123456789end..."), ""},
		{"contained beyond the limit", steps(health.Step{Contains: "end", Limit: 12}), playing("0123456789end..."), `step 1: the target says "0123456789en", expected "end" within 12 octets`},
		{"matched", steps(health.Step{Match: regexp.MustCompile(`[0-9]+\n`)}, health.Step{Prefix: "b"}), playing("a123\nb"), ""},
		{"not matched", steps(health.Step{Match: regexp.MustCompile(`^[0-9]+\n`), Limit: 4}), playing("a123\nb"), "step 1: the target says \"a123\", expected a match of \"^[0-9]+\\\\n\" within 4 octets"},
		{"the usual limit", steps(health.Step{Contains: "end"}), playing(long + "end"), `step 1: the target says "` + long[:128] + `"..., expected "end" within 4096 octets`},
		{"a larger limit", steps(health.Step{Contains: "end", Limit: 64 << 10}), playing(long + "end"), ""},
		{"more than a limit left over", steps(health.Step{Match: regexp.MustCompile("^x"), Limit: 3000}, health.Step{Contains: "e", Limit: 1}), playing("xyz"), `step 2: the target says "yz", expected "e" within 1 octets`},
		{"more than is expected", steps(health.Step{Prefix: "+"}), playing("+" + strings.Repeat("x", 1<<20)), ""},
		{"what is left is next", steps(health.Step{Prefix: "a"}, health.Step{Prefix: "b"}, health.Step{Send: "x", Prefix: "c"}, health.Step{Contains: "e"}), playing("abcd", "<x", "e"), ""},
		{"only said", steps(health.Step{Send: "x"}), playing(), ""},
		{"said in two steps", steps(health.Step{Send: "a"}, health.Step{Send: "b", Prefix: "c"}), playing("<ab", "c"), ""},
	}
	cert := certificate(t, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			targets := []balancer.Target{backend(t, "tcp", tt.serve)}
			if tt.name != "resets" {
				targets = append(targets, backend(t, "https", withTLS(cert, tt.serve)), backend(t, "tcp", withTLS(cert, tt.serve)))
			}
			for i, target := range targets {
				if i > 0 {
					tt.check.TLS = trusting(cert)
				}
				err := probe(t, tt.check, target, patience)
				switch {
				case tt.want == "":
					require.NoError(t, err)
				default:
					require.EqualError(t, err, "health: "+tt.want, i)
				}
			}
		})
	}
}

// The result is the same for every way to split the target's text into packets.
func TestConversation_B5_SplitWords(t *testing.T) {
	whole := "220-mail.example ESMTP\r\n220 ready\r\n"
	for at := range len(whole) {
		dial := piped(func(conn net.Conn) {
			play(conn, whole[:at], whole[at:], "<QUIT\r\n", "2", "21 Bye\r\n") // each is a packet, because a pipe does not join writes
		})
		if at == 0 {
			dial = piped(func(conn net.Conn) {
				for i := range len(whole) {
					play(conn, whole[i:i+1])
				}
				play(conn, "<QUIT\r\n", "221 ")
			})
		}
		check := smtp
		check.Dial = dial
		require.NoError(t, probe(t, check, target("a"), patience), at)
	}
}

// The time limit of the check applies to the whole conversation.
func TestConversation_B5_WordsForWhatIsLate(t *testing.T) {
	tests := []struct {
		name  string
		check health.Conversation
		serve func(net.Conn)
		want  string
	}{
		{"says nothing", smtp, func(net.Conn) {}, "step 1: no answer within 3s"},
		{"says no more", smtp, func(c net.Conn) { play(c, "220 mail\r\n", "<QUIT\r\n") }, "step 2: no answer within 3s"},
		{"stops in a word", smtp, func(c net.Conn) { play(c, "220 ma") }, `step 1: answer not complete within 3s, the target has said "220 ma"`},
		{"an octet a second", smtp, func(c net.Conn) {
			for i := range 100 {
				time.Sleep(time.Second - time.Millisecond)
				if _, err := fmt.Fprint(c, i%10); err != nil {
					return
				}
			}
		}, `step 1: answer not complete within 3s, the target has said "012"`},
		{"reads nothing", smtp, func(c net.Conn) { play(c, "220 mail\r\n") }, "step 2: not all taken that is sent within 3s"},
		{"reads some", health.Conversation{Steps: []health.Step{{Send: strings.Repeat("x", 64<<10)}}}, func(c net.Conn) { play(c, "<x") }, "step 1: not all taken that is sent within 3s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt.check.Dial = piped(func(conn net.Conn) {
					tt.serve(conn)
					time.Sleep(time.Minute)
				})
				r := &health.Registry{Pool: newPool(t, target("a")), Check: tt.check, Timeout: 3 * time.Second, Interval: time.Hour}
				run(t, r)
				require.NoError(t, r.Ready(t.Context()))
				got := r.Status().Targets[0]
				require.Equal(t, tt.want, got.Check.Error)
				require.Equal(t, 3*time.Second, got.Check.Duration)
				time.Sleep(2 * time.Minute)
			})
		})
	}
}

// A check may send a password. No error contains it, not even if the target repeats it.
func TestConversation_B5_SaysNoPasswords(t *testing.T) {
	const password = "hunter2-Correct"
	tests := []struct {
		name  string
		steps []health.Step
		says  string
		want  string
	}{
		{"not repeated", []health.Step{{Send: "AUTH " + password + "\r\n", Prefix: "+OK"}}, "-ERR no\r\n", `"-ERR no\r\n", expected "+OK"`},
		{"repeated", []health.Step{{Send: "AUTH " + password + "\r\n", Prefix: "+OK"}}, "-ERR '" + password + "' is wrong\r\n", `"-ERR '[sent]' is wrong\r\n", expected "+OK"`},
		{"in another case", []health.Step{{Send: "AUTH " + password + "\r\n", Prefix: "+OK"}}, "-ERR " + strings.ToUpper(password) + "\r\n", `"-ERR[sent]\r\n", expected "+OK"`},
		{"cut short", []health.Step{{Send: "AUTH " + password + "\r\n", Prefix: "+OK"}}, "-ERR 'hunt...'\r\n", `"-ERR '[sent]...'\r\n", expected "+OK"`},
		{"at the end of what is shown", []health.Step{{Send: password, Prefix: "+OK"}}, strings.Repeat("-", 126) + password, `"` + strings.Repeat("-", 126) + `[sent]"..., expected "+OK"`},
		{"a step later", []health.Step{{Send: password + "\n", Prefix: "+"}, {Send: "PING\n", Prefix: "+PONG"}}, "+" + password + "\r\n", `step 2: the target says "[sent]\r\n", expected "+PONG"`},
		{"a short one", []health.Step{{Send: "abc\n", Prefix: "+"}}, "-abc\n", `"-[sent]\n", expected "+"`},
		{"expected to be repeated", []health.Step{{Send: password + "\n", Prefix: password + "\n"}}, "no\n", `"no\n", expected "[sent]\n"`},
		{"among octets", []health.Step{{Send: "\xff\x00" + password + "\x00", Prefix: "+"}}, "\xc3" + password + "\xa9", `"\xc3[sent]\xa9", expected "+"`},
		{"in an answer that breaks off", []health.Step{{Send: password + "\n", Contains: "+"}}, "- " + password, `the target has said "- [sent]"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sent := 0
			for _, step := range tt.steps {
				sent += len(step.Send)
			}
			check := health.Conversation{Steps: tt.steps, Dial: piped(func(conn net.Conn) {
				io.CopyN(io.Discard, conn, int64(len(tt.steps[0].Send)))
				conn.Write([]byte(tt.says))
				io.CopyN(io.Discard, conn, int64(sent-len(tt.steps[0].Send)))
			})}
			var log bytes.Buffer
			r := &health.Registry{Pool: newPool(t, target("a")), Check: check, Logger: slog.New(slog.NewTextHandler(&log, nil))}
			stop := start(t, r)
			require.NoError(t, r.Ready(t.Context()))
			stop()
			said := r.Status().Targets[0].Check.Error
			require.Contains(t, said, tt.want)
			require.NotContains(t, strings.ToLower(said+log.String()), "hunt")
			require.NotContains(t, log.String(), "abc")
		})
	}
}

func TestConversation_B5_RefusesWhatItCannotDo(t *testing.T) {
	any := regexp.MustCompile(".")
	for want, steps := range map[string][]health.Step{
		"no steps": nil,
		"step 2 neither sends nor expects anything":                     {{Send: "x"}, {}},
		"step 1 neither sends nor expects anything":                     {{Limit: 9}},
		"step 1 expects more than one of Prefix, Contains and Match":    {{Prefix: "x", Contains: "x"}},
		"step 2 expects more than one of Prefix, Contains and Match":    {{Prefix: "x"}, {Contains: "x", Match: any}},
		`step 2 has a Match of "(\\+OK)?", which needs no answer`:       {{Send: "x"}, {Match: regexp.MustCompile(`(\+OK)?`)}},
		`step 1 has a Match of ".*$", which needs no answer`:            {{Match: regexp.MustCompile(`.*$`)}},
		"step 1 sends more than 64 KiB":                                 {{Send: strings.Repeat("secret", 11000)}},
		"step 1 has a Limit of -1, which is not within 0 and 64 KiB":    {{Prefix: "x", Limit: -1}},
		"step 1 has a Limit of 65537, which is not within 0 and 64 KiB": {{Prefix: "x", Limit: 64<<10 + 1}},
		"step 1 expects more than its Limit of 2 octets":                {{Prefix: "xyz", Limit: 2}},
		"step 1 expects more than its Limit of 4096 octets":             {{Contains: strings.Repeat("x", 4097)}},
	} {
		check := health.Conversation{Steps: steps}
		want = "health: Conversation check: " + want
		require.EqualError(t, probe(t, check, refusing(t, "tcp"), patience), want)
		r := &health.Registry{Pool: newPool(t, target("a")), Check: check}
		require.EqualError(t, r.Run(t.Context()), want, "before it has to")
	}
}

// A Conversation and a GRPC check reach a target as its requests do: at its address, a Unix socket
// too, by its certificate's name, and with its client certificate.
func TestChecks_W16_ReachTargetsWhereverTheyAre(t *testing.T) {
	now := time.Now()
	server := certificate(t, now.Add(-time.Hour), now.Add(time.Hour), "app.example")
	client := certificate(t, now.Add(-time.Hour), now.Add(time.Hour))
	listen := func(t *testing.T, network, addr string, serve func(net.Conn)) string {
		l, err := net.Listen(network, addr)
		require.NoError(t, err)
		t.Cleanup(func() { l.Close() })
		conf := &tls.Config{Certificates: []tls.Certificate{server}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{"h2", "http/1.1"}}
		go func() {
			for {
				raw, err := l.Accept()
				if err != nil {
					return
				}
				conn := tls.Server(raw, conf)
				if err := conn.Handshake(); err == nil && bytes.Equal(conn.ConnectionState().PeerCertificates[0].Raw, client.Leaf.Raw) {
					serve(conn)
				}
				raw.Close()
			}
		}()
		return l.Addr().String()
	}
	checks := map[string]struct {
		check func(*tls.Config) health.Check
		serve func(net.Conn)
	}{
		"HTTP/2": {func(c *tls.Config) health.Check { return health.HTTP{TLS: c} }, framed(func(f *frames) { f.header(true, ":status", "200") })},
		"gRPC":   {func(c *tls.Config) health.Check { return health.GRPC{TLS: c} }, framed(says200(message(servingMessage), "grpc-status", "0"))},
		"conversation": {func(c *tls.Config) health.Check {
			return health.Conversation{Steps: []health.Step{{Send: "PING\r\n", Prefix: "+PONG"}}, TLS: c}
		}, func(c net.Conn) { play(c, "<PING\r\n", "+PONG\r\n") }},
	}
	dir, err := os.MkdirTemp("", "w16") // a socket's path is short
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	for name, tt := range checks {
		for network, addr := range map[string]string{"tcp": "127.0.0.1:0", "unix": filepath.Join(dir, strings.ReplaceAll(name, "/", "")+".sock")} {
			t.Run(name+" over "+network, func(t *testing.T) {
				at := listen(t, network, addr, tt.serve)
				if network == "unix" {
					at = "unix:" + at
				}
				target := balancer.Target{
					URL: &url.URL{Scheme: "https", Host: "10.0.0.1:443"}, Addr: at,
					ServerName: "app.example", Certificate: &client,
				}
				require.NoError(t, probe(t, tt.check(trusting(server)), target, patience))
				target.ServerName = "other.example"
				require.ErrorContains(t, probe(t, tt.check(trusting(server)), target, patience), `the certificate is not valid for "other.example"`)
				target.ServerName, target.Certificate = "app.example", nil
				require.Error(t, probe(t, tt.check(trusting(server)), target, patience))
				target.Addr = "unix:" + filepath.Join(dir, "none")
				require.ErrorIs(t, probe(t, tt.check(trusting(server)), target, patience), syscall.ENOENT)
			})
		}
	}
}

// words is a connection to a target that sends these words and accepts everything.
type words struct {
	net.Conn
	left []string
}

func (w *words) Read(p []byte) (int, error) {
	for len(w.left) > 0 && w.left[0] == "" {
		w.left = w.left[1:]
	}
	if len(w.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, w.left[0])
	w.left[0] = w.left[0][n:]
	return n, nil
}

func (w *words) Write(p []byte) (int, error) { return len(p), nil }
func (w *words) SetDeadline(time.Time) error { return nil }
func (w *words) Close() error                { return nil }

// For any text and any split into packets, a check ends with the same result as for the whole text.
func FuzzConversation(f *testing.F) {
	f.Add("220 mail\r\n", "221 Bye", 3)
	f.Add("220-a\r\n220 b\r\n", "5", 20)
	f.Add("\xff\x00", "", 0)
	f.Add("SECRET", "secret", 1)
	f.Fuzz(func(t *testing.T, greeting, answer string, at int) {
		at = max(0, min(at, len(greeting)))
		check := health.Conversation{Steps: []health.Step{
			{Match: regexp.MustCompile(`^(220-.*\r\n)*220 .*\r\n`)},
			{Send: "secret\r\n", Prefix: "221 "},
		}}
		check.Dial = func(context.Context, string, string) (net.Conn, error) {
			return &words{left: []string{greeting[:at], greeting[at:], answer}}, nil
		}
		err := probe(t, check, target("a"), 10*time.Second)
		if err != nil {
			require.Regexp(t, "^health: step [12]: [a-z]", err.Error())
			require.NotContains(t, strings.ToLower(err.Error()), "secr")
			require.NotErrorIs(t, err, context.DeadlineExceeded)
		}
		used := regexp.MustCompile(`^(220-.*\r\n)*220 .*\r\n`).FindStringIndex(greeting[:min(len(greeting), 4096)])
		if used != nil && used[1] == len(greeting) && strings.HasPrefix(answer, "221 ") || err == nil {
			require.NoError(t, err)
			require.NotNil(t, used)
		}
	})
}
