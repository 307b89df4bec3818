// @ts-check
/**
 * What wheel, mouse, pen and fingers do on the image.
 *
 * Mouse or pen: the wheel scrolls, with Ctrl it zooms; a drag sets the window, with Shift or the middle button it pans.
 * One finger scrolls, two zoom and pan. While the ruler is on, a drag of the mouse or of one finger measures.
 */

const NOTCH = 50; // pixels of the wheel that make a step; a mouse's notch is 100 or more, and one step
const SWIPE = 12; // pixels of a finger that make a step
const PER_NOTCH = 1.25; // by which a notch of the wheel enlarges
const GRAB = { mouse: 10, touch: 24 }; // pixels around an end of a ruler from which it is moved

/** @typedef {{moved: (event: PointerEvent) => void, ended?: () => unknown, dropped?: () => void}} Drag */

/** @param {import("./viewer.js").Viewer} viewer  @param {AbortSignal} signal */
export function listenWheel(viewer, signal) {
  let turned = 0;
  const turn = (/** @type {WheelEvent} */ event) => {
    event.preventDefault();
    const pixels = event.deltaMode === 0 ? event.deltaY : event.deltaY * NOTCH;
    if (event.ctrlKey) { // also a pinch on a touchpad
      const notches = Math.abs(pixels) >= NOTCH ? Math.sign(pixels) : pixels / NOTCH;
      viewer.zoom.by(PER_NOTCH ** -notches, event);
      return;
    }
    turned = Math.abs(pixels) >= NOTCH ? Math.sign(pixels) * NOTCH : turned + pixels;
    if (Math.abs(turned) < NOTCH) return;
    viewer.go(viewer.wanted + Math.sign(turned));
    turned = 0;
  };
  for (const name of ["stage", "strip"]) viewer.part(name).addEventListener("wheel", turn, { passive: false, signal });
}

/** @param {import("./viewer.js").Viewer} viewer  @param {AbortSignal} signal */
export function listenPointers(viewer, signal) {
  const stage = viewer.part("stage");
  /** @type {Map<number, PointerEvent>} */
  const fingers = new Map(); // that are down, each where it was last
  /** @type {Drag | null} */
  let drag = null;

  /** @type {Record<string, (event: PointerEvent) => void>} */
  const listeners = {
    pointerdown(event) {
      if (event.pointerType === "mouse" && event.button > 1) return;
      stage.setPointerCapture(event.pointerId);
      if (event.pointerType === "touch") fingers.set(event.pointerId, event);
      viewer.point(event);
      if (fingers.size > 1) drag?.dropped?.();
      drag = fingers.size > 1 ? null : startDrag(viewer, event);
    },
    pointermove(event) {
      const [last, other] = [fingers.get(event.pointerId), [...fingers.keys()].find((id) => id !== event.pointerId)];
      if (last) fingers.set(event.pointerId, event);
      viewer.point(event);
      if (last && other !== undefined && fingers.size === 2) {
        pinch(viewer, last, event, /** @type {PointerEvent} */ (fingers.get(other)));
      } else {
        drag?.moved(event);
      }
    },
    pointerup(event) {
      fingers.delete(event.pointerId);
      drag?.ended?.();
      drag = null;
    },
    pointercancel(event) {
      fingers.delete(event.pointerId);
      drag?.dropped?.();
      drag = null;
    },
    pointerleave(event) {
      if (event.pointerType !== "touch") viewer.point(null); // what a finger touched last stays
    },
  };
  for (const [name, listener] of Object.entries(listeners)) stage.addEventListener(name, listener, { signal });
  const middle = (/** @type {MouseEvent} */ event) => event.button === 1 && event.preventDefault(); // no autoscroll
  stage.addEventListener("mousedown", middle, { signal });
}

/** @param {import("./viewer.js").Viewer} viewer  @param {PointerEvent} start  @returns {Drag} */
function startDrag(viewer, start) {
  if (start.button === 1 || start.shiftKey) return panning(viewer, start);
  if (viewer.measuring.on) return viewer.hu ? measuring(viewer, start) : { moved() {} };
  const index = viewer.wanted;
  if (start.pointerType === "touch") {
    return { moved: (event) => viewer.go(index + Math.trunc((event.clientY - start.clientY) / SWIPE)) };
  }
  const { level, width } = viewer.windowing;
  const step = Math.max(width / 256, 0.25); // HU a pixel: a wide window moves in wide steps
  return {
    moved(event) {
      const [right, down] = [event.clientX - start.clientX, event.clientY - start.clientY];
      if (right || down) viewer.setWindow(level - down * step, width + right * step);
    },
  };
}

/** @param {import("./viewer.js").Viewer} viewer  @param {PointerEvent} start  @returns {Drag} */
function panning(viewer, start) {
  let last = start;
  return {
    moved(event) {
      viewer.zoom.pan(event.clientX - last.clientX, event.clientY - last.clientY);
      last = event;
    },
  };
}

/** @param {import("./viewer.js").Viewer} viewer  @param {PointerEvent} start  @returns {Drag} */
function measuring(viewer, start) {
  const point = viewer.pixelAt(start);
  const box = viewer.part("frame").getBoundingClientRect();
  const { index } = viewer;
  const slice = viewer.series.slices[index];
  const distance = (/** @type {import("./ruler.js").Point} */ a, /** @type {import("./ruler.js").Point} */ b) =>
    Math.hypot(((a.x - b.x) * box.width) / slice.columns, ((a.y - b.y) * box.height) / slice.rows);
  const most = start.pointerType === "touch" ? GRAB.touch : GRAB.mouse;
  const grabbed = viewer.measuring.rulers.endNear(index, point, distance, most);
  if (grabbed) {
    return {
      moved(event) {
        if (viewer.index !== index) return; // scrolled on meanwhile
        grabbed.ruler[grabbed.end] = viewer.pixelAt(event);
        viewer.measuring.draw();
      },
      ended: () => viewer.index === index && viewer.measuring.tellLength(grabbed.ruler),
    };
  }
  const ruler = { from: point, to: point };
  viewer.measuring.begin(ruler);
  return {
    moved(event) {
      ruler.to = viewer.pixelAt(event);
      viewer.measuring.draw();
    },
    ended: () => viewer.measuring.end(ruler),
    dropped: () => viewer.measuring.drop(),
  };
}

/** Two fingers: what is between them stays between them, and grows as their distance does.
 *  @param {import("./viewer.js").Viewer} viewer  @param {PointerEvent} last  @param {PointerEvent} now
 *  @param {PointerEvent} other */
function pinch(viewer, last, now, other) {
  const middle = (/** @type {PointerEvent} */ finger) => (
    { clientX: (finger.clientX + other.clientX) / 2, clientY: (finger.clientY + other.clientY) / 2 });
  const apart = (/** @type {PointerEvent} */ finger) =>
    Math.max(1, Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY));
  const [before, after] = [middle(last), middle(now)];
  viewer.zoom.by(apart(now) / apart(last), before);
  viewer.zoom.pan(after.clientX - before.clientX, after.clientY - before.clientY);
}
