// Disks under a snapshot, as ESXi has them: the guest writes to a child beside what it had, which
// keeps its name; when the snapshot goes, both become one again. govmomi 0.24.2 knows no such.
package simulator

import (
	"os"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"
)

const delta = "-000001.vmdk"

func (vm *VirtualMachine) ownDisks() map[*types.VirtualDisk]*types.VirtualDiskFlatVer2BackingInfo {
	found := make(map[*types.VirtualDisk]*types.VirtualDiskFlatVer2BackingInfo)
	devices := object.VirtualDeviceList(vm.Config.Hardware.Device)
	for _, device := range devices.SelectByType((*types.VirtualDisk)(nil)) {
		disk := device.(*types.VirtualDisk)
		if backing, isFlat := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); isFlat {
			found[disk] = backing
		}
	}
	return found
}

// setApart has the guest write to children of its disks from now on.
func (vm *VirtualMachine) setApart() types.BaseMethodFault {
	dc := Map.getEntityDatacenter(vm)
	for disk, backing := range vm.ownDisks() {
		if strings.HasSuffix(backing.FileName, delta) {
			continue // one snapshot of ours at a time
		}
		child := *backing
		child.FileName = strings.TrimSuffix(backing.FileName, ".vmdk") + delta
		child.Parent = backing
		create := types.VirtualDeviceConfigSpecFileOperationCreate
		fault := makeDisk(create, &dc.Self, child.FileName, disk.CapacityInKB, backing.FileName)
		if fault != nil {
			return fault
		}
		disk.Backing = &child
	}
	return nil
}

// putTogether has its disks hold what was written to their children.
func (vm *VirtualMachine) putTogether() {
	dc := Map.getEntityDatacenter(vm)
	for disk, backing := range vm.ownDisks() {
		if !strings.HasSuffix(backing.FileName, delta) {
			continue
		}
		child, _ := Map.FileManager().resolve(&dc.Self, backing.FileName)
		parent, _ := Map.FileManager().resolve(&dc.Self, backing.Parent.FileName)
		_ = os.Rename(vdmNames(child)[0], vdmNames(parent)[0])
		_ = os.Remove(child)
		disk.Backing = backing.Parent
	}
}
