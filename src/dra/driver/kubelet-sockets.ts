import { chmod } from "node:fs/promises";
import { join } from "node:path";
import { driverName } from "../../api/names.ts";
import { type DraHandlers, draServer } from "./dra-server.ts";
import { namesIn } from "./durable-files.ts";
import { makeFolder } from "./folders.ts";
import type { RegistrationStatus } from "./grpc.ts";
import { registrationServer } from "./registration.ts";
import { listenUnix, removeStale } from "./unix-server.ts";

/** The driver's two sockets below the kubelet's folder. */
export interface KubeletSockets {
  /** Unregisters, and lets calls under way end for some seconds. */
  close(): Promise<void>;
}

/** Less than a service may take to stop; who still waits then asks again. */
const closeGraceMs = 5_000;

/** Names of `k8s.io/dynamic-resource-allocation/kubeletplugin`; with a pod's UID those for rolling updates. */
const draSocket = /^dra(-[0-9A-Za-z-]+)?\.sock$/;
const registrationSocket = /^gpu\.kllama\.ai(-[0-9A-Za-z-]+)?-reg\.sock$/;

/** Where the driver's sockets are, and the lock of those processes of it that run at the same time. */
export function socketPaths(kubeletFolder: string, podUid: string | undefined) {
  const folder = join(kubeletFolder, "plugins", driverName);
  const registry = join(kubeletFolder, "plugins_registry");
  const own = podUid === undefined ? "" : `-${podUid}`;
  return {
    folder,
    registry,
    dra: join(folder, `dra${own}.sock`),
    registration: join(registry, `${driverName}${own}-reg.sock`),
    lock: join(folder, "serialize.lock"),
  };
}

/** Paths of the DRA sockets of all processes of this driver that are or were there. */
export async function draSockets(folder: string): Promise<string[]> {
  return (await namesIn(folder)).filter((name) => draSocket.test(name)).map((name) => join(folder, name));
}

/**
 * Opens the DRA socket, then the one by which the kubelet finds it: whoever finds it may call at once. With the UID of the
 * driver's pod both are its own, so that its successor can start before it ends; what killed predecessors left goes.
 */
export async function openKubeletSockets(
  kubeletFolder: string,
  podUid: string | undefined,
  handlers: DraHandlers,
  onStatus: (status: RegistrationStatus) => void,
): Promise<KubeletSockets> {
  const paths = socketPaths(kubeletFolder, podUid);
  await makeFolder(paths.folder, 0o700);
  await chmod(paths.folder, 0o700);
  if (podUid !== undefined) await removeLeftOver(paths);
  const { server, endStreams } = draServer(handlers);
  const dra = await listenUnix(server, paths.dra);
  const registration = await listenUnix(registrationServer(dra.path, onStatus), paths.registration);
  return {
    async close() {
      // In this order: once the registration is gone the kubelet makes no more calls.
      await registration.close(closeGraceMs);
      endStreams();
      await dra.close(closeGraceMs);
    },
  };
}

/** Sockets of this driver that nobody listens on any more: the kubelet would try them for ever. */
async function removeLeftOver({ folder, registry }: { folder: string; registry: string }): Promise<void> {
  const registrations = (await namesIn(registry)).filter((name) => registrationSocket.test(name));
  const ours = [...registrations.map((name) => join(registry, name)), ...(await draSockets(folder))];
  // Of those where somebody answers, nothing is removed.
  await Promise.all(ours.map((path) => removeStale(path).catch(() => undefined)));
}
