package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A handler behind requestID sees the trailers of a request, which arrive after it has begun.
func TestRequestID_KeepsTrailers(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		srv := httptest.NewUnstartedServer(requestID(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			io.WriteString(w, r.Trailer.Get("Sum"))
		})))
		srv.EnableHTTP2 = http2
		srv.StartTLS()
		defer srv.Close()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL, io.NopCloser(strings.NewReader("body")))
		require.NoError(t, err)
		req.Trailer = http.Header{"Sum": {"42"}}
		res, err := srv.Client().Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		got, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, "42", string(got), "HTTP/%d", res.ProtoMajor)
	}
}

// Backends that cannot tell an underscore or a dot from a hyphen get no other ID than ours.
func TestRequestID_NoOtherSpelling(t *testing.T) {
	got := make(chan http.Header, 1)
	h := requestID(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.Header }))
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
	sent := http.Header{"X-Request-Id": {"forged"}, "X_request_id": {"forged"}, "X.request-Id": {"forged"}, "x-REQUEST_id": {"forged"},
		"X-Request-Idea": {"mine"}}
	r.Header = sent.Clone()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	require.Equal(t, http.Header{"X-Request-Id": w.Result().Header["X-Request-Id"], "X-Request-Idea": {"mine"}}, <-got)
	require.Equal(t, sent, r.Header, "the server's request is not changed")
}
