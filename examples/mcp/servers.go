package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/stickylb/stickylb/examples/internal/nodejs"
)

//go:embed node/*.js node/*.json
var files embed.FS

// startServers starts three servers of the SDK for Node.js, and returns their names and URLs. The
// caller closes the folder, which ends them.
func startServers(ctx context.Context) (sdk *nodejs.Folder, targets string, err error) {
	sdk, err = nodejs.Install(ctx, files, "node")
	if err != nil {
		return nil, "", err
	}
	for _, name := range []string{"red", "green", "blue"} {
		server, err := sdk.Start(ctx, "server.js", name)
		if err != nil {
			return nil, "", errors.Join(err, sdk.Close())
		}
		targets += " " + name + "=" + server.URL
	}
	return sdk, targets[1:], nil
}

// play has clients of the SDK play sessions, and prints what they say.
func play(ctx context.Context, sdk *nodejs.Folder, url string, stdout io.Writer) {
	client := sdk.Command(ctx, "client.js", "60", url)
	client.Stderr = os.Stderr
	out, err := client.Output()
	switch {
	case ctx.Err() != nil:
	case err != nil:
		fmt.Fprintln(stdout, "the clients have failed:", err)
	default:
		fmt.Fprintf(stdout, "sixty sessions: %s", out)
	}
}
