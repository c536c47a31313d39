package debian

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// Need returns an error that says what to install if any of the programs or files is not there.
// The map has the package of each.
func Need(packages map[string]string) error {
	missing := make(map[string]bool)
	for file, pkg := range packages {
		if _, err := exec.LookPath(file); err == nil {
			continue
		}
		if _, err := os.Stat(file); err != nil || !strings.HasPrefix(file, "/") {
			missing[pkg] = true
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("missing: apt-get install %s", strings.Join(slices.Sorted(maps.Keys(missing)), " "))
}
