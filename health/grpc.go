package health

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/stickylb/stickylb/balancer"
)

// maxService limits the name of a service, in octets.
const maxService = 4 << 10

// GRPC is a [Check] that calls the method Check of gRPC's health service, grpc.health.v1.Health, on
// a connection of its own. A target is healthy if the service answers SERVING. Targets with the
// schemes https and wss are checked over TLS and must choose HTTP/2 (ALPN). All others are checked
// over HTTP/2 in plain text, with prior knowledge. The zero value checks the server as a whole.
type GRPC struct {
	// Service is the name of the service to check, such as "shop.Orders". Empty means the server as
	// a whole. It has at most 4 KiB.
	Service string

	// Host is the call's authority. Empty means the host of the target's URL.
	Host string

	// Header holds metadata of the call. It is not changed. Fields that belong to connections or to
	// gRPC itself (Content-Type, TE and those that begin with Grpc-) are not sent. Values of fields
	// that end in -Bin are sent as they are, so they must be base64.
	Header http.Header

	// TLS is used for https and wss targets. The target's ServerName and Certificate replace those
	// of TLS if they are set, see [balancer.Target.TLSConfig]. Nil means the zero [tls.Config],
	// which verifies the certificate against the system's roots. Nil NextProtos mean h2. TLS is
	// cloned and never changed.
	TLS *tls.Config

	// Dial opens the connection. Nil means a plain [net.Dialer].
	Dial DialFunc
}

// Check implements [Check].
func (c GRPC) Check(ctx context.Context, t balancer.Target) error {
	if err := c.validate(); err != nil {
		return err
	}
	a := begin(ctx, t, c.Dial, c.TLS)
	conn, err := a.open("h2")
	if err != nil {
		return err
	}
	defer a.hangUp(conn)
	if !a.http2 {
		return &failure{reason: "the target did not choose HTTP/2, which gRPC needs, in the TLS handshake (ALPN)"}
	}
	res, err := a.exchangeHTTP2(conn, c.request(t), frameMessage(c.Service))
	if err != nil {
		return err
	}
	return judgeCall(a, res)
}

// validate implements [validator].
func (c GRPC) validate() error {
	if len(c.Service) > maxService || !utf8.ValidString(c.Service) {
		return fmt.Errorf("health: gRPC check: service %.64q cannot be asked for", c.Service)
	}
	if c.TLS != nil && c.TLS.NextProtos != nil && !slices.Contains(c.TLS.NextProtos, "h2") {
		return errors.New("health: gRPC check: TLS.NextProtos lacks h2, and gRPC needs HTTP/2")
	}
	return validateRequest("gRPC", "", c.Host, c.Header)
}

func (c GRPC) request(t balancer.Target) *http.Request {
	req := newRequest(t, "/grpc.health.v1.Health/Check", c.Host, c.Header)
	req.Method = http.MethodPost
	for name := range req.Header {
		if strings.HasPrefix(name, "Grpc-") {
			delete(req.Header, name)
		}
	}
	req.Header["Content-Type"] = []string{"application/grpc"}
	req.Header["Te"] = []string{"trailers"}
	return req
}

// judgeCall reads the rest of the answer, within its limit, and returns the call's result. An
// answer without a message has its status in the header.
func judgeCall(a *attempt, res *http.Response) error {
	if res.StatusCode != http.StatusOK {
		return &failure{reason: fmt.Sprintf("status %d, expected 200", res.StatusCode)}
	}
	kind := res.Header.Get("Content-Type")
	if kind != "application/grpc" && !strings.HasPrefix(kind, "application/grpc+") && !strings.HasPrefix(kind, "application/grpc;") {
		return &failure{reason: "the answer is not gRPC, its Content-Type is " + quoted([]byte(kind))}
	}
	body, err := readBody(a, res)
	if err != nil {
		return err
	}
	if len(body) == maxBody {
		return &failure{reason: "the answer is too large, 64 KiB or more"}
	}
	said := res.Trailer
	if len(said["Grpc-Status"]) == 0 && len(body) == 0 {
		said = res.Header
	}
	if err := callStatus(said); err != nil {
		return err
	}
	return judgeMessage(body)
}

// codes are the names of gRPC's statuses.
var codes = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
	"PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
	"UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// Hints for people about some statuses.
var hints = map[string]string{
	"NOT_FOUND":     ": its health service does not know the service",
	"UNIMPLEMENTED": ": it has no health service (grpc.health.v1.Health)",
}

// callStatus returns an error if the call has failed.
func callStatus(said http.Header) error {
	lines := said["Grpc-Status"]
	if len(lines) == 0 {
		return &failure{reason: "the answer has no gRPC status"}
	}
	code, err := strconv.ParseUint(lines[0], 10, 32)
	if err != nil || len(lines) > 1 {
		return &failure{reason: "the answer's gRPC status is " + quoted([]byte(strings.Join(lines, ", ")))}
	}
	if code == 0 {
		return nil
	}
	name := "unknown"
	if code < uint64(len(codes)) {
		name = codes[code]
	}
	reason := fmt.Sprintf("the target answers with gRPC status %d (%s)%s", code, name, hints[name])
	if message := said.Get("Grpc-Message"); message != "" {
		reason += ", " + quoted(percentDecoded(message))
	}
	return &failure{reason: reason}
}

// percentDecoded decodes a message of gRPC. A percent sign that begins no valid escape stays.
func percentDecoded(s string) []byte {
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				out = append(out, byte(n))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return out
}

// frameMessage returns a HealthCheckRequest as it goes into the body.
func frameMessage(service string) []byte {
	var message []byte
	if service != "" {
		message = binary.AppendUvarint([]byte{1<<3 | wireOctets}, uint64(len(service)))
		message = append(message, service...)
	}
	const notCompressed = 0
	return append(binary.BigEndian.AppendUint32([]byte{notCompressed}, uint32(len(message))), message...)
}

// servingStatuses are the names of HealthCheckResponse.ServingStatus.
var servingStatuses = map[int32]string{0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

const serving = 1

// judgeMessage returns an error unless body is one HealthCheckResponse with SERVING.
func judgeMessage(body []byte) error {
	const prefix = 5
	if len(body) == 0 {
		return &failure{reason: "the answer has no message"}
	}
	if body[0] != 0 {
		return &failure{reason: "the answer is compressed, which was not asked for"}
	}
	if len(body) < prefix {
		return &failure{reason: "the answer ended within its message"}
	}
	size := uint64(binary.BigEndian.Uint32(body[1:]))
	message := body[prefix:]
	switch {
	case size > uint64(len(message)):
		return &failure{reason: "the answer ended within its message"}
	case size < uint64(len(message)):
		return &failure{reason: "the answer has more than one message"}
	}
	status, err := servingStatus(message)
	switch {
	case err != nil:
		return &failure{reason: "the answer's message is not a HealthCheckResponse: " + err.Error()}
	case status == serving:
		return nil
	}
	return &failure{reason: "the health service says " + cmp.Or(servingStatuses[status], fmt.Sprintf("status %d", status))}
}
