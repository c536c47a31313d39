package machine

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"strings"
)

// guestModules are the kernel modules that a machine loads, dependencies aside.
var guestModules = []string{
	"virtio_pci", "virtio_console", "9pnet_virtio", "9p",
	"fuse", "overlay",
	"uhci_hcd", "ehci_pci", "xhci_pci", "vhci_hcd",
	"usbmon", "usbhid",
}

// moreModules are those that a machine loads if Config.Modules names them: drivers of
// serial adapters and terminals, which would claim devices of tests that are not theirs.
var moreModules = []string{"ftdi_sio", "pl2303", "cdc_acm", "cyberjack", "iuu_phoenix", "cuse"}

// unpackKernel takes the ELF kernel out of a bzImage, so that the guest, whose
// processor is emulated, does not have to: that takes it 3 s.
// Linux Documentation/arch/x86/boot.rst: payload_offset, payload_length.
func unpackKernel(ctx context.Context, bz []byte) ([]byte, error) {
	if len(bz) < 0x250 || string(bz[0x202:0x206]) != "HdrS" {
		return nil, errors.New("kernel: not a bzImage")
	}
	setup := int(bz[0x1F1])
	if setup == 0 {
		setup = 4
	}
	off := (setup+1)*512 + int(binary.LittleEndian.Uint32(bz[0x248:]))
	n := int(binary.LittleEndian.Uint32(bz[0x24C:]))
	if off < 0 || n < 8 || off+n > len(bz) {
		return nil, fmt.Errorf("kernel: payload of %d bytes at %d in a bzImage of %d", n, off, len(bz))
	}
	payload := bz[off : off+n]
	out, err := decompress(ctx, payload)
	if err != nil {
		return nil, err
	}
	if _, err := elf.NewFile(bytes.NewReader(out)); err != nil {
		return nil, fmt.Errorf("kernel payload: %w", err)
	}
	return out, nil
}

// decompress runs the program that fits the data's magic. The kernel's build appends the
// unpacked size to some formats; the program may report it as garbage after it has output
// all data.
func decompress(ctx context.Context, p []byte) ([]byte, error) {
	var args []string
	switch {
	case bytes.HasPrefix(p, []byte("\xFD7zXZ\x00")):
		args = []string{"xz", "-dc", "--single-stream"}
	case bytes.HasPrefix(p, []byte{0x28, 0xB5, 0x2F, 0xFD}):
		args = []string{"zstd", "-dcq"}
	case bytes.HasPrefix(p, []byte{0x1F, 0x8B}):
		args = []string{"gzip", "-dc"}
	case bytes.HasPrefix(p, []byte{0x02, 0x21, 0x4C, 0x18}):
		args = []string{"lz4", "-dc"}
	default:
		return nil, fmt.Errorf("unknown compression, starts % X", p[:min(8, len(p))])
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin = bytes.NewReader(p)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil && out.Len() == 0 {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out.Bytes(), nil
}

// module is one kernel module.
type module struct {
	name string // as the kernel spells it, with '_'
	elf  []byte
	deps []string
}

// moduleSet holds the modules of a kernel package, still compressed.
type moduleSet struct {
	packed  map[string][]byte
	builtin map[string]bool // from the package's modules.builtin
}

func newModuleSet() *moduleSet {
	return &moduleSet{packed: map[string][]byte{}, builtin: map[string]bool{}}
}

// moduleDirs are the parts of the kernel's tree where dependencies of
// guestModules lie; the rest of the 4,000 modules is not kept.
var moduleDirs = []string{
	"/drivers/usb/", "/drivers/virtio/", "/drivers/char/", "/drivers/hid/", "/drivers/tty/",
	"/fs/", "/net/9p/", "/lib/", "/crypto/",
}

// offer offers a file of the kernel package to the set, which keeps it if it may need it.

func (s *moduleSet) offer(file string, r io.Reader) error {
	if path.Base(file) == "modules.builtin" {
		b, err := io.ReadAll(r)
		for line := range strings.Lines(string(b)) {
			s.builtin[moduleName(strings.TrimSpace(line))] = true
		}
		return err
	}
	if !strings.Contains(file, ".ko") {
		return nil
	}
	for _, d := range moduleDirs {
		if strings.Contains(file, "/kernel"+d) {
			b, err := io.ReadAll(r)
			if err != nil {
				return err
			}
			s.packed[moduleName(file)] = b
			return nil
		}
	}
	return nil
}

func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// resolve lists the named modules and their dependencies, each after its own dependencies.
// Modules that are built into the kernel are left out.
func (s *moduleSet) resolve(names []string) ([]module, error) {
	var order []module
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		if seen[name] || s.builtin[name] {
			return nil
		}
		seen[name] = true
		packed, ok := s.packed[name]
		if !ok {
			return fmt.Errorf("the kernel package has no module %s in %s", name, strings.Join(moduleDirs, " "))
		}
		m := module{name: name, elf: packed}
		if !bytes.HasPrefix(packed, []byte(elf.ELFMAG)) {
			var err error
			if m.elf, err = decompress(context.Background(), packed); err != nil {
				return fmt.Errorf("module %s: %w", name, err)
			}
		}
		var err error
		if m.deps, err = moduleDeps(m.elf); err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		for _, d := range m.deps {
			if err := visit(d); err != nil {
				return err
			}
		}
		order = append(order, m)
		return nil
	}
	for _, n := range names {
		if err := visit(n); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleDeps reads the depends= entry of a module's .modinfo section: a package that is not
// installed has no modules.dep.
func moduleDeps(ko []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(ko))
	if err != nil {
		return nil, err
	}
	sec := f.Section(".modinfo")
	if sec == nil {
		return nil, errors.New("no .modinfo section")
	}
	info, err := sec.Data()
	if err != nil {
		return nil, err
	}
	var deps []string
	for kv := range strings.SplitSeq(string(info), "\x00") {
		for _, key := range []string{"depends=", "softdep=pre: "} {
			list, ok := strings.CutPrefix(kv, key)
			if !ok {
				continue
			}
			for _, d := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' }) {
				deps = append(deps, strings.ReplaceAll(d, "-", "_"))
			}
		}
	}
	return deps, nil
}
