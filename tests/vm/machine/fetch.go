package machine

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// kernelMeta is the Debian package whose dependency is the current kernel. The
// kernel's own name changes with every security update. (The cloud kernel has
// no USB.)
const kernelMeta = "linux-image-amd64"

// Image is what a machine boots. All its files come from Debian packages that were unpacked
// without installing them.
type Image struct {
	Dir     string // where it is cached
	Release string // kernel release, "6.1.0-56-amd64"
	Kernel  string // uncompressed ELF, or bzImage where it could not be unpacked
	Initrd  string // modules, busybox and udev; each machine adds its /init
}

// imageName changes with the files that Fetch puts into an image.
const imageName = "image-3"

// CacheDir is where images and card databases are kept: $CARDFS_VM_CACHE, or
// cardfs/vm in the user's cache directory.
func CacheDir() (string, error) {
	if d := os.Getenv("CARDFS_VM_CACHE"); d != "" {
		return d, os.MkdirAll(d, 0o755)
	}
	d, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("where to cache the machine's kernel: %w (set CARDFS_VM_CACHE)", err)
	}
	d = filepath.Join(d, "cardfs", "vm")
	return d, os.MkdirAll(d, 0o755)
}

// Fetch returns the cached image. It makes the image first if there is none, or if fresh is
// set: it asks apt for the current kernel (70 MB), udev and busybox, and unpacks the parts
// that a machine needs.
func Fetch(ctx context.Context, fresh bool, log *slog.Logger) (*Image, error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	unlock, err := lockDir(ctx, cache)
	if err != nil {
		return nil, err
	}
	defer unlock()

	current := filepath.Join(cache, imageName)
	if !fresh {
		if img, err := readImage(current); err == nil {
			return img, nil
		}
	}
	begin := time.Now()
	work, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	if err := build(ctx, cache, work, log); err != nil {
		return nil, fmt.Errorf("machine image: %w", err)
	}
	if err := os.RemoveAll(current); err != nil {
		return nil, err
	}
	if err := os.Rename(work, current); err != nil {
		return nil, err
	}
	removeOld(cache, current)
	img, err := readImage(current)
	if err == nil {
		log.Info("machine image ready", "kernel", img.Release, "dir", img.Dir, "took", time.Since(begin).Round(time.Second))
	}
	return img, err
}

func readImage(dir string) (*Image, error) {
	rel, err := os.ReadFile(filepath.Join(dir, "release"))
	if err != nil {
		return nil, err
	}
	return &Image{
		Dir:     dir,
		Release: strings.TrimSpace(string(rel)),
		Kernel:  filepath.Join(dir, "kernel"),
		Initrd:  filepath.Join(dir, "initrd"),
	}, nil
}

// removeOld deletes images of other versions of this package.
func removeOld(cache, keep string) {
	all, _ := filepath.Glob(filepath.Join(cache, "image-*"))
	for _, d := range all {
		if d != keep {
			os.RemoveAll(d)
		}
	}
}

func build(ctx context.Context, cache, work string, log *slog.Logger) error {
	kernel, err := aptDepends(ctx, kernelMeta, "linux-image-")
	if err != nil {
		return err
	}
	if len(kernel) != 1 {
		return fmt.Errorf("%s depends on %q, not on one kernel", kernelMeta, kernel)
	}
	libs, err := aptDepends(ctx, "udev", "lib")
	if err != nil {
		return err
	}
	debs := filepath.Join(cache, "debs")
	pkgs := append([]string{kernel[0], "udev", "busybox-static"}, libs...)
	log.Info("fetching Debian packages, once", "packages", strings.Join(pkgs, " "))
	defer os.RemoveAll(debs)
	paths, err := aptDownload(ctx, debs, pkgs)
	if err != nil {
		return err
	}

	release := strings.TrimPrefix(kernel[0], "linux-image-")
	var vmlinuz []byte
	mods := newModuleSet()
	if err := readDeb(ctx, paths[kernel[0]], func(name string, h *tar.Header, r io.Reader) error {
		switch {
		case strings.HasPrefix(name, "boot/vmlinuz-"):
			var err error
			vmlinuz, err = io.ReadAll(r)
			return err
		}
		return mods.offer(name, r)
	}); err != nil {
		return err
	}
	if vmlinuz == nil {
		return fmt.Errorf("package %s holds no boot/vmlinuz-*", kernel[0])
	}
	vmlinux, err := unpackKernel(ctx, vmlinuz)
	if err != nil {
		log.Warn("the guest has to unpack its kernel itself, which costs seconds a boot", "err", err)
		vmlinux = vmlinuz
	}
	if err := os.WriteFile(filepath.Join(work, "kernel"), vmlinux, 0o644); err != nil {
		return err
	}
	loadOrder, err := mods.resolve(guestModules)
	if err != nil {
		return err
	}

	var rd bytes.Buffer
	cp := newCPIO(&rd)
	for i, m := range loadOrder {
		cp.file(fmt.Sprintf("mod/%02d-%s.ko", i, m.name), 0o644, m.elf)
	}
	for _, name := range moreModules {
		loadOrder, err := mods.resolve([]string{name})
		if err != nil {
			return err
		}
		for i, m := range loadOrder {
			cp.file(fmt.Sprintf("more/%s/%02d-%s.ko", name, i, m.name), 0o644, m.elf)
		}
	}
	if err := readDeb(ctx, paths["busybox-static"], func(name string, h *tar.Header, r io.Reader) error {
		if name == "bin/busybox" || name == "usr/bin/busybox" {
			return cp.copy("bin/busybox", h, r)
		}
		return nil
	}); err != nil {
		return err
	}
	for _, p := range append([]string{"udev"}, libs...) {
		if err := readDeb(ctx, paths[p], func(name string, h *tar.Header, r io.Reader) error {
			name = strings.TrimPrefix(name, "usr/")
			switch {
			case name == "bin/udevadm":
				cp.link("vm/udev/systemd-udevd", "udevadm")
				return cp.copy("vm/udev/udevadm", h, r)
			case path.Dir(name) == "lib/udev/rules.d":
				return cp.copy("vm/udev/rules.d/"+path.Base(name), h, r)
			case path.Dir(name) == "lib/x86_64-linux-gnu" && strings.Contains(name, ".so"):
				return cp.copy("vm/udev/lib/"+path.Base(name), h, r)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	cp.close()
	if err := os.WriteFile(filepath.Join(work, "initrd"), rd.Bytes(), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(work, "release"), []byte(release+"\n"), 0o644)
}

// aptDepends lists the packages with the given prefix that pkg depends on. If apt does not
// know pkg, it runs `apt-get update` once.
func aptDepends(ctx context.Context, pkg, prefix string) ([]string, error) {
	for try := 0; ; try++ {
		out, err := run(ctx, "", "apt-cache", "depends", "--important", "-o", "APT::Cache::ShowOnlyFirstOr=true", pkg)
		var found []string
		for line := range strings.Lines(out) {
			kind, name, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if (kind == "Depends" || kind == "PreDepends") && strings.HasPrefix(name, prefix) && name != "libc6" {
				found = append(found, name)
			}
		}
		if len(found) > 0 {
			return found, nil
		}
		if try > 0 {
			return nil, errors.Join(fmt.Errorf("apt knows no package %s; the machine is made from Debian packages and needs apt with Debian's archive", pkg), err)
		}
		if _, err := run(ctx, "", "apt-get", "update", "-qq"); err != nil {
			return nil, err
		}
	}
}

// aptDownload brings packages into dir and tells each one's file there.
func aptDownload(ctx context.Context, dir string, pkgs []string) (map[string]string, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	args := append([]string{"-q", "-o", "APT::Sandbox::User=root", "download"}, pkgs...)
	if _, err := run(ctx, dir, "apt-get", args...); err != nil {
		// The lists may name a version that the archive has since replaced.
		if _, uerr := run(ctx, "", "apt-get", "update", "-qq"); uerr != nil {
			return nil, errors.Join(err, uerr)
		}
		if _, err := run(ctx, dir, "apt-get", args...); err != nil {
			return nil, err
		}
	}
	paths := make(map[string]string, len(pkgs))
	for _, p := range pkgs {
		m, _ := filepath.Glob(filepath.Join(dir, p+"_*.deb"))
		if len(m) != 1 {
			return nil, fmt.Errorf("apt-get download %s left %d files in %s", p, len(m), dir)
		}
		paths[p] = m[0]
	}
	return paths, nil
}

// readDeb calls f with each file and link of a package.
func readDeb(ctx context.Context, deb string, f func(name string, h *tar.Header, r io.Reader) error) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("dpkg-deb: %w", err)
	}
	walk := func() error {
		tr := tar.NewReader(out)
		for {
			h, err := tr.Next()
			if err == io.EOF {
				_, err = io.Copy(io.Discard, out)
				return err
			}
			if err != nil {
				return fmt.Errorf("%s: %w", deb, err)
			}
			if h.Typeflag == tar.TypeDir {
				continue
			}
			if err := f(strings.TrimPrefix(path.Clean(h.Name), "/"), h, tr); err != nil {
				return err
			}
		}
	}
	err = walk()
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("dpkg-deb --fsys-tarfile %s: %w: %s", deb, err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// run runs a command in dir and returns what it printed.
func run(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// lockDir keeps other processes from working in dir.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("waiting for another process to finish with %s: %w", dir, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
