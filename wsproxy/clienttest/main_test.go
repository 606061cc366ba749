package clienttest_test

import (
	"os"
	"testing"
)

// role is the variable that has the test binary be something else than a test.
const role = "CLIENTTEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "application":
		beApplication()
		return
	}
	code := m.Run()
	cleanNode()
	os.Exit(code)
}
