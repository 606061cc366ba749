package main

import (
	"crypto/sha256"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	elbsdk "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancing"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancing/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/aws-http-auth/credentials"
	"github.com/aws/smithy-go/aws-http-auth/sigv4"
	"github.com/stretchr/testify/require"
)

// An errorDocument is the service's answer to a call that it refuses.
type errorDocument struct {
	XMLName   xml.Name `xml:"http://elasticloadbalancing.amazonaws.com/doc/2012-06-01/ ErrorResponse"`
	Type      string   `xml:"Error>Type"`
	Code      string   `xml:"Error>Code"`
	Message   string   `xml:"Error>Message"`
	RequestID string   `xml:"RequestId"`
}

const someSignature = "AWS4-HMAC-SHA256 Credential=any/20261130/us-east-1/elasticloadbalancing/aws4_request, SignedHeaders=host;x-amz-date, Signature=00"

func (s *program) send(method, target, body string, header http.Header) (int, string) {
	s.t.Helper()
	r, err := http.NewRequest(method, s.url+target, strings.NewReader(body))
	require.NoError(s.t, err)
	r.Header = header
	if host := header.Get("Host"); host != "" {
		r.Host = host
	}
	res, err := http.DefaultClient.Do(r)
	require.NoError(s.t, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(s.t, err)
	return res.StatusCode, string(text)
}

func formHeader(more ...string) http.Header {
	h := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Authorization": {someSignature}, "X-Amz-Date": {"20261130T000000Z"}}
	for i := 0; i < len(more); i += 2 {
		h.Set(more[i], more[i+1])
	}
	return h
}

// Whatever is wrong with a call, the answer is an error document of the service, and nothing
// changes.
func TestAPI_RefusesWithDocuments(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.create(listener("HTTP", freePort(t), "HTTP", 80))
	before := document(t, s)
	const version = "&Version=2012-06-01"
	deletion := "Action=DeleteLoadBalancer&LoadBalancerName=" + lbName
	tests := map[string]struct {
		body   string
		header http.Header
		status int
		code   string
	}{
		"no signature":      {deletion + version, http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, 403, "MissingAuthenticationToken"},
		"half a signature":  {deletion + version, formHeader("Authorization", "AWS4-HMAC-SHA256 x"), 403, "IncompleteSignature"},
		"no version":        {deletion, formHeader(), 400, "NoSuchVersion"},
		"version 2":         {deletion + "&Version=2015-12-01", formHeader(), 400, "NoSuchVersion"},
		"no action":         {"X=1" + version, formHeader(), 400, "InvalidAction"},
		"unknown action":    {"Action=DescribeRules" + version, formHeader(), 400, "InvalidAction"},
		"no parameter":      {"Action=DeleteLoadBalancer" + version, formHeader(), 400, "ValidationError"},
		"parameter twice":   {deletion + "&LoadBalancerName=x" + version, formHeader(), 400, "MalformedInput"},
		"action twice":      {deletion + "&Action=AddTags" + version, formHeader(), 400, "MalformedInput"},
		"bad escape":        {deletion + "&X=%zz" + version, formHeader(), 400, "MalformedInput"},
		"semicolon":         {deletion + ";X=1" + version, formHeader(), 400, "MalformedInput"},
		"JSON":              {`{"Action":"DeleteLoadBalancer"}`, formHeader("Content-Type", "application/json"), 400, "MalformedInput"},
		"too large":         {deletion + version + "&X=" + strings.Repeat("x", 1<<20), formHeader(), 413, "RequestEntityTooLarge"},
		"many parameters":   {deletion + version + many(6000), formHeader(), 400, "ValidationError"},
		"a list's member 0": {"Action=DeleteLoadBalancerListeners&LoadBalancerName=" + lbName + "&LoadBalancerPorts.member.0=80" + version, formHeader(), 400, "MalformedInput"},
		"a huge member":     {"Action=DeleteLoadBalancerListeners&LoadBalancerName=" + lbName + "&LoadBalancerPorts.member.99999999999=80" + version, formHeader(), 400, "MalformedInput"},
		"markup":            {"Action=<x/>" + version, formHeader(), 400, "InvalidAction"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			status, text := s.send("POST", "/", tt.body, tt.header)
			var d errorDocument
			require.NoError(t, xml.Unmarshal([]byte(text), &d), text)
			require.Equal(t, tt.code, d.Code)
			require.Equal(t, tt.status, status)
			require.Equal(t, "Sender", d.Type)
			require.Len(t, d.RequestID, 36)
		})
	}
	status, text := s.send("PUT", "/", deletion+version, formHeader())
	require.Equal(t, http.StatusMethodNotAllowed, status)
	require.Contains(t, text, "<Code>InvalidAction</Code>")
	require.Equal(t, before, document(t, s))
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "&p%d=", i)
	}
	return b.String()
}

// A page of another site, and a name that somebody else's DNS gives this machine, reach nothing.
func TestAPI_Browsers(t *testing.T) {
	t.Parallel()
	s := start(t)
	call := "Action=DescribeAccountLimits&Version=2012-06-01"
	tests := map[string]struct {
		header http.Header
		want   int
	}{
		"a program":         {formHeader(), 200},
		"the page itself":   {formHeader("Sec-Fetch-Site", "same-origin"), 200},
		"another site":      {formHeader("Sec-Fetch-Site", "cross-site"), 403},
		"another port":      {formHeader("Sec-Fetch-Site", "same-site"), 403},
		"an older browser":  {formHeader("Origin", "http://elsewhere.test"), 403},
		"DNS of elsewhere":  {formHeader("Host", "elsewhere.test"), 421},
		"a loopback name":   {formHeader("Host", "api.localhost"), 200},
		"the local machine": {formHeader("Host", "localhost:8000"), 200},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			status, _ := s.send("POST", "/", call, tt.header)
			require.Equal(t, tt.want, status)
			status, _ = s.send("GET", "/?"+call, "", tt.header)
			require.Equal(t, tt.want, status)
		})
	}
}

// With an access key, calls need its signature, and so does the page need the key.
func TestAPI_AccessKey(t *testing.T) {
	t.Parallel()
	s := start(t, "-access-key", "AKIDEXAMPLE:se:cret")
	create := func(c *elbsdk.Client) error {
		_, err := c.CreateLoadBalancer(t.Context(), &elbsdk.CreateLoadBalancerInput{LoadBalancerName: aws.String(lbName),
			AvailabilityZones: []string{"us-east-1a"}, Listeners: []types.Listener{listener("HTTP", freePort(t), "HTTP", 80)}})
		return err
	}
	for want, c := range map[string]*elbsdk.Client{
		"InvalidClientTokenId":  clientOf(s.url, "AKIDOTHER", "se:cret"),
		"SignatureDoesNotMatch": clientOf(s.url, "AKIDEXAMPLE", "guess"),
	} {
		var api smithy.APIError
		require.ErrorAs(t, create(c), &api)
		require.Equal(t, want, api.ErrorCode())
	}
	require.Empty(t, s.elb.store.doc.Load().LoadBalancers)
	require.NoError(t, create(clientOf(s.url, "AKIDEXAMPLE", "se:cret")))

	status, _ := s.send("GET", "/", "", http.Header{})
	require.Equal(t, http.StatusUnauthorized, status)
	r := httptest.NewRequest("GET", "/", nil)
	r.SetBasicAuth("AKIDEXAMPLE", "se:cret")
	status, _ = s.send("GET", "/", "", r.Header)
	require.Equal(t, http.StatusOK, status)
}

// A call that was signed too long ago is refused, and changes nothing.
func TestAPI_OldCall(t *testing.T) {
	t.Parallel()
	s := start(t, "-access-key", "AKIDEXAMPLE:secret")
	form := fmt.Sprintf("Action=CreateLoadBalancer&Version=2012-06-01&LoadBalancerName=lb&AvailabilityZones.member.1=a&Listeners.member.1.Protocol=TCP"+
		"&Listeners.member.1.InstancePort=1&Listeners.member.1.LoadBalancerPort=%d", freePort(t))
	send := func(age time.Duration) (int, string) {
		r, err := http.NewRequest("POST", s.url, strings.NewReader(form))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		require.NoError(t, sigv4.New().SignRequest(&sigv4.SignRequestInput{Request: r, PayloadHash: hashOf(form), Time: time.Now().Add(-age),
			Service: service, Region: "us-east-1", Credentials: credentials.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "secret"}}))
		return s.send("POST", "/", form, r.Header)
	}
	status, text := send(16 * time.Minute)
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, text, "<Code>RequestExpired</Code>")
	require.Empty(t, s.elb.store.doc.Load().LoadBalancers)
	status, _ = send(0)
	require.Equal(t, http.StatusOK, status)
}

func hashOf(text string) []byte {
	sum := sha256.Sum256([]byte(text))
	return sum[:]
}

// Calls of other versions go to the other emulator as they are.
func TestAPI_OtherEmulator(t *testing.T) {
	t.Parallel()
	var got []string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, r.Host+" "+string(body)+" "+r.Header.Get("Authorization"))
		io.WriteString(w, "from the other")
	}))
	defer other.Close()
	s := start(t, "-other", other.URL)
	status, text := s.send("POST", "/", "Action=DescribeRules&Version=2015-12-01", formHeader())
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "from the other", text)
	require.Equal(t, []string{strings.TrimPrefix(s.url, "http://") + " Action=DescribeRules&Version=2015-12-01 " + someSignature}, got)
	_, text = s.send("POST", "/", "Action=DescribeAccountLimits&Version=2012-06-01", formHeader())
	require.Contains(t, text, "classic-listeners")
	require.Len(t, got, 1)
}

func TestFlags(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"-api 0.0.0.0:8000", "-api :8000", "-api 192.0.2.1:8000", "-api 8000", "-port-offset 70000", "-port-offset -1", "-access-key AKID",
		"-access-key :x", "-instance i-1=h", "-instance i-0a1b2c3d", "-instance i-0a1b2c3d=", "-instance i-0a1b2c3d=h:0", "-instance i-0a1b2c3d=h:99999",
		"-instance i-0a1b2c3d=h -instance i-0a1b2c3d=k", "-certificates /nowhere", "-other x", "extra",
	} {
		_, err := parse(strings.Fields(args), io.Discard)
		require.Error(t, err, args)
		require.NotContains(t, err.Error(), "\n", args)
	}
	_, err := parse([]string{"-access-key", "secret-without-id"}, io.Discard)
	require.NotContains(t, err.Error(), "secret-without-id")
	o, err := parse(strings.Fields("-api 0.0.0.0:8000 -access-key A:B -instance i-0a1b2c3d=10.0.0.1@eu-1a -instance i-1a1b2c3d=[::1]:81"), io.Discard)
	require.NoError(t, err)
	require.Equal(t, instances{
		"i-0a1b2c3d": {id: "i-0a1b2c3d", host: "10.0.0.1", zone: "eu-1a"},
		"i-1a1b2c3d": {id: "i-1a1b2c3d", host: "::1", port: 81, zone: defaultZone},
	}, o.instances)
}

// HEAD of the page is like GET; no call is a HEAD.
func TestAPI_Head(t *testing.T) {
	t.Parallel()
	s := start(t)
	status, _ := s.send("HEAD", "/", "", http.Header{})
	require.Equal(t, http.StatusOK, status)
	status, _ = s.send("HEAD", "/?Action=DescribeAccountLimits&Version=2012-06-01", "", formHeader())
	require.Equal(t, http.StatusMethodNotAllowed, status)
}
