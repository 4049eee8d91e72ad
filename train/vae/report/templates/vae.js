// A row of pictures, clicked, is shown at its full size.
{
  const pixels = report.make("dialog", { class: "pixels", "aria-label": "Pictures at their full size" });
  document.body.append(pixels);
  for (const row of document.querySelectorAll("#vae .shots")) row.addEventListener("click", () => {
    pixels.replaceChildren(...[...row.children].map((shot) => shot.cloneNode(true)));
    pixels.showModal();
  });
  pixels.addEventListener("click", () => pixels.close());
}
