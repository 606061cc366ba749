package wskey_test

import (
	"encoding/base64"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/stickylb/stickylb/health/wskey"
)

func TestAccept(t *testing.T) {
	require.Equal(t, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", wskey.Accept("dGhlIHNhbXBsZSBub25jZQ=="), "RFC 6455, section 1.3")
}

func TestNew(t *testing.T) {
	key, err := base64.StdEncoding.DecodeString(wskey.New())
	require.NoError(t, err)
	require.Len(t, key, 16)
	require.NotEqual(t, wskey.New(), wskey.New())
}
