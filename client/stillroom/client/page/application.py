"""The site's page as a web application. It changes one thing: whether this site is paused."""

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from stillroom.client import pausing
from stillroom.client.config import SiteConfig
from stillroom.client.page.measures import measures
from stillroom.client.page.overview import SiteWatch
from stillroom.client.page.view import LONGEST_WHY, site_body
from stillroom.common.errors import StillroomError
from stillroom.common.markup import tag
from stillroom.common.pages.guard import Forms, Guard
from stillroom.common.pages.listening import Listening
from stillroom.common.pages.metrics import answer as metrics_answer
from stillroom.common.pages.serving import application, in_words, page


def site_page(config: SiteConfig, listening: Listening) -> Guard:
    """The application."""
    watch, forms = SiteWatch(config), Forms()

    def front(request: Request) -> Response:
        try:
            body, status = site_body(watch.look(), forms.token), 200
        except StillroomError as error:
            body, status = tag("main", in_words(error)), 500
        return page(request, f"{config.site}: stillroom", body, status=status)

    def metrics(_: Request) -> Response:
        return metrics_answer(measures(watch.look()))

    async def change(request: Request) -> Response:
        fields = await forms.read(request)
        if fields is None:
            return PlainTextResponse("The form is stale. Go back and load the page again.\n", 403)
        state = config.courier_state
        try:
            if request.url.path == "/pause":
                why = " ".join(fields.get("why", "").split())[:LONGEST_WHY]
                await run_in_threadpool(pausing.pause, state, why)
            else:
                await run_in_threadpool(pausing.resume, state)
        except StillroomError as error:
            return page(request, "stillroom", tag("main", in_words(error)), status=500)
        # 303: a reload of what follows asks nothing again.
        return RedirectResponse("/", 303)

    routes = [
        Route("/", front),
        Route("/metrics", metrics),
        Route("/pause", change, methods=["POST"]),
        Route("/resume", change, methods=["POST"]),
    ]
    return application(routes, listening)
