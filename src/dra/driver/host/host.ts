import { readdir, readFile, realpath } from "node:fs/promises";
import { join } from "node:path";

/**
 * What the kernel says about the machine, below a folder that stands for the host's root. Rejects where this process or the system
 * has come to a limit of its own, which says nothing about the host.
 */
export interface Host {
  /** Undefined: no such file, or it cannot be read. Without the white space around it. */
  text(path: string): Promise<string | undefined>;
  /** Names in a folder; none when it does not exist. */
  names(path: string): Promise<string[]>;
  /** Where a link leads, as an absolute path of the host. */
  target(path: string): Promise<string | undefined>;
}

/** Where a PCI function sits. */
export interface PciPlace {
  /** `pci0000:1a`. */
  pcieRoot?: string;
  numaNode?: number;
  /** RDMA devices (network cards without RDMA, if there are none) below the same PCIe root, in order. */
  nics: readonly string[];
}

/** `root` is `/`, or where a container has the host's root mounted. */
export function openHost(root: string): Host {
  const at = (path: string): string => join(root, path);
  return {
    text: (path) =>
      readFile(at(path), "utf8").then(
        (text) => text.trim(),
        (error) => absent(error, undefined),
      ),
    names: (path) => readdir(at(path)).catch((error) => absent(error, [])),
    async target(path) {
      const [base, real] = await Promise.all([
        realpath(root),
        realpath(at(path)).catch((error) => absent(error, undefined)),
      ]);
      if (real === undefined || !real.startsWith(base)) return undefined;
      return `/${real.slice(base.length).replace(/^\//, "")}`;
    },
  };
}

const limits: readonly (string | undefined)[] = ["EMFILE", "ENFILE", "ENOMEM"];

function absent<T>(error: NodeJS.ErrnoException, nothing: T): T {
  if (limits.includes(error.code)) throw error;
  return nothing;
}

/** `00000000:1A:00.0`, as NVIDIA writes it → `0000:1a:00.0`, as Linux does. */
export function linuxBusId(busId: string): string {
  const [, domain = "", rest = ""] = /^([0-9a-f]+)(:.*)$/.exec(busId.toLowerCase()) ?? [];
  return `${domain.replace(/^0+(?=.{4})/, "")}${rest}`;
}

/** PCI functions by address. One call reads what all of them share once. */
export async function pciPlaces(host: Host, busIds: readonly string[]): Promise<ReadonlyMap<string, PciPlace>> {
  const nics = await nicsByRoot(host);
  const places = busIds.map(async (busId) => {
    const pcieRoot = rootOf(await host.target(`/sys/bus/pci/devices/${busId}`));
    const numa = Number((await host.text(`/sys/bus/pci/devices/${busId}/numa_node`)) ?? -1);
    return [
      busId,
      {
        ...(pcieRoot === undefined ? {} : { pcieRoot }),
        // −1: the firmware does not tell.
        ...(Number.isInteger(numa) && numa >= 0 ? { numaNode: numa } : {}),
        nics: nics.get(pcieRoot ?? "") ?? [],
      },
    ] as const;
  });
  return new Map(await Promise.all(places));
}

async function nicsByRoot(host: Host): Promise<ReadonlyMap<string, readonly string[]>> {
  for (const folder of ["/sys/class/infiniband", "/sys/class/net"]) {
    const found = new Map<string, string[]>();
    for (const name of (await host.names(folder)).toSorted()) {
      const root = rootOf(await host.target(`${folder}/${name}/device`));
      if (root !== undefined) found.set(root, [...(found.get(root) ?? []), name]);
    }
    if (found.size > 0) return found;
  }
  return new Map();
}

/** `/sys/devices/pci0000:15/0000:15:01.0/…` → `pci0000:15`. */
function rootOf(path: string | undefined): string | undefined {
  return /^\/sys\/devices\/(?:[^/]+\/)*?(pci[0-9a-f]{4,}:[0-9a-f]{2})\//.exec(path ?? "")?.[1];
}
