package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/stickylb/stickylb/examples/internal/nodejs"
)

//go:embed node/*.js node/*.json node/*.html
var files embed.FS

// startNodes starts three nodes, and returns their names with their URLs. The caller closes the
// folder, which ends them.
func startNodes(ctx context.Context) (folder *nodejs.Folder, nodes []string, err error) {
	folder, err = nodejs.Install(ctx, files, "node")
	if err != nil {
		return nil, nil, err
	}
	for _, name := range []string{"red", "green", "blue"} {
		node, err := folder.Start(ctx, "server.js", name)
		if err != nil {
			return nil, nil, errors.Join(err, folder.Close())
		}
		nodes = append(nodes, name+"="+node.URL)
	}
	return folder, nodes, nil
}

// play has clients of each kind connect to the balancer at url, and prints what they say.
func play(ctx context.Context, folder *nodejs.Folder, url string, count int, stdout io.Writer) {
	clients := folder.Command(ctx, "client.js", url, strconv.Itoa(count), "table")
	clients.Stdout, clients.Stderr = stdout, os.Stderr
	switch err := clients.Run(); {
	case ctx.Err() != nil:
	case err != nil:
		fmt.Fprintln(stdout, "the clients have failed:", err)
	default:
		fmt.Fprintf(stdout, "now open %s in a browser\n", url)
	}
}
