// Command modzip writes a version of a module, as a commit of a Git repository has it, to a folder
// that the go command reads as a proxy:
//
//	modzip PROXY REPOSITORY COMMIT SUBDIRECTORY MODULE VERSION
package main

import (
	"encoding/json"
	"log"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("modzip: ")
	if len(os.Args) != 7 {
		log.Fatal("usage: modzip PROXY REPOSITORY COMMIT SUBDIRECTORY MODULE VERSION")
	}
	version := module.Version{Path: os.Args[5], Version: os.Args[6]}
	if err := publish(os.Args[1], os.Args[2], os.Args[3], os.Args[4], version); err != nil {
		log.Fatal(err)
	}
}

// publish writes the files of a version that the protocol of module proxies names.
func publish(proxy, repository, commit, subdirectory string, v module.Version) error {
	escaped, err := module.EscapePath(v.Path)
	if err != nil {
		return err
	}
	dir := filepath.Join(proxy, filepath.FromSlash(escaped), "@v")
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if subdirectory == "." {
		subdirectory = ""
	}
	mod, err := exec.Command("git", "-C", repository, "show", commit+":"+path.Join(subdirectory, "go.mod")).Output()
	if err != nil {
		return err
	}
	info, err := json.Marshal(struct {
		Version string
		Time    time.Time
	}{v.Version, time.Now().UTC()})
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"list": []byte(v.Version + "\n"), v.Version + ".info": info, v.Version + ".mod": mod} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o666); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Join(dir, v.Version+".zip"))
	if err != nil {
		return err
	}
	if err := zip.CreateFromVCS(f, v, repository, commit, subdirectory); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
