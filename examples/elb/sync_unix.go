//go:build unix

package main

import (
	"errors"
	"os"
)

// syncDirectory makes a rename in a directory last.
func syncDirectory(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
