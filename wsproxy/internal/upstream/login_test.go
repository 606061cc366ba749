package upstream_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/wsproxy/internal/upstream"
)

func TestLogsIn_W14(t *testing.T) {
	for value, want := range map[string]bool{
		"NTLM TlRMTVNTUAAB": true, "ntlm": true, "Negotiate YII": true, "nEGOTIATE\tYII": true, "Nego2 x": true,
		"Kerberos x": true, "Basic eA==, NTLM x": true, "Basic eA==,\t negotiate x": true, ", NTLM x": true,
		"\tNTLM x": true, "\u00a0NTLM x": true, "\xa0 NTLM x": true, "\x85NTLM x": true, `"Negotiate" x`: true, ",;NTLM x": true,
		`Digest username="a, NTLM b"`: true, // nobody's loss

		"": false, "Basic eA==": false, "Bearer NTLM": false, `Digest realm="NTLM"`: false, "nt": false, ",": false,
	} {
		require.Equal(t, want, upstream.LogsIn(http.Header{"Authorization": {value}}), value)
		require.Equal(t, want, upstream.LogsIn(http.Header{"Authorization": {"Basic eA==", value}}), value)
		require.Equal(t, want, upstream.LogsIn(http.Header{"Proxy-Authorization": {value}}), value)
		require.False(t, upstream.LogsIn(http.Header{"Cookie": {value}}), value)
	}
}
