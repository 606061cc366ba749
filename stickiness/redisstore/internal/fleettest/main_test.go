package fleettest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stickylb/stickylb/stickiness/redisstore/internal/redistest"
)

// settingsVar has the settings of a balancer. A test binary that has it is that balancer.
const settingsVar = "FLEETTEST_BALANCER"

func TestMain(m *testing.M) {
	if text := os.Getenv(settingsVar); text != "" {
		os.Exit(beBalancer(text))
	}
	redistest.Parallel()
	code := m.Run()
	if left := children(); len(left) > 0 {
		fmt.Println("processes were left:", left)
		code = 1
	}
	os.Exit(code)
}

// children returns the IDs of the processes that this one has started and that have not ended. It
// finds none where there is no /proc.
func children() (ids []string) {
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, name := range lists {
		text, _ := os.ReadFile(name)
		ids = append(ids, strings.Fields(string(text))...)
	}
	return ids
}
